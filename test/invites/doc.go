// Package invites owns the tests, with whole nodes, of invites that users do not want and of those to e-mail addresses.
package invites
