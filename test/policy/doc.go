// Package policy owns the tests, with whole nodes, of policy servers: ours, and rooms that name one.
package policy
