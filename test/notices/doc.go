// Package notices owns the tests of server notices over whole nodes.
package notices
