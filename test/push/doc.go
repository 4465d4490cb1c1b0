// Package push owns the tests of push notifications over whole nodes and a real gateway that misbehaves.
package push
