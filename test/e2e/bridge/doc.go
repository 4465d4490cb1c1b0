// Package bridge owns a journey with an application service made of mautrix-go, the library of most of today's bridges:
// ghosts, messages both ways, what passes, and end-to-end encryption as the service's users. Its encryption in Go is
// behind a build tag of that library:
//
//	go test -tags goolm ./test/e2e/bridge
//
// The tests of package e2e run it so.
package bridge
