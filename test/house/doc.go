// Package house owns the tests that hold the whole tree to its own rules: which package may import which, that each
// says what it owns, and that docs/coverage.md is what the route table says.
package house
