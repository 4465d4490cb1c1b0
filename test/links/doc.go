// Package links owns the tests of bad connections between whole nodes: what operators see of them, and that nothing is lost or doubled.
package links
