// Package edus owns the tests, with whole nodes, of what servers tell each other beside events.
package edus
