// Package ports owns the choice of ports for servers that must be told theirs before they listen.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// The range is below those from which Linux and others give ports to outgoing connections and to listeners that ask for
// any: nobody takes a port of it by chance.
const (
	lowest = 20_000
	count  = 12_000
)

// Free returns a port of loopback on which nobody listens.
func Free() (int, error) {
	var err error
	for range 100 {
		port := lowest + rand.IntN(count)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, err
}
