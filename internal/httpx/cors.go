package httpx

import (
	"net/http"
	"strings"
)

// isBrowserPath says whether web clients of any origin may call a path (Client-Server API, "Web browser clients").
func isBrowserPath(path string) bool {
	for _, prefix := range []string{"/_matrix/client/", "/_matrix/media/", "/.well-known/matrix/", "/_synapse/"} {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

func allowOrigins(h http.Header) {
	h["Access-Control-Allow-Origin"] = []string{"*"}
	h["Access-Control-Allow-Methods"] = []string{"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}
	h["Access-Control-Allow-Headers"] = []string{"X-Requested-With, Content-Type, Authorization, Date, If-Match, If-None-Match"}
	h["Access-Control-Expose-Headers"] = []string{"ETag, Location, Retry-After"}
	h["Access-Control-Max-Age"] = []string{"86400"}
}
