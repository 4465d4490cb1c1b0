// Package invites tests invites that users do not want, and those to e-mail addresses, with whole nodes.
package invites
