package auth

import (
	"net"
	"strings"

	"github.com/tidwall/gjson"

	"knock/internal/glob"
	"knock/roomserver/event"
)

// maxACLEntries bounds the globs of one list that are looked at.
const maxACLEntries = 10_000

// ServerAllowed applies an m.room.server_acl event to a server name (client-server API, "Server Access Control Lists").
// The port of the name does not count.
func ServerAllowed(acl *event.Event, server string) bool {
	content := gjson.ParseBytes(acl.ContentJSON())
	host := hostOf(server)
	if content.Get("allow_ip_literals").Type == gjson.False && net.ParseIP(strings.Trim(host, "[]")) != nil {
		return false
	}
	return !anyGlob(content.Get("deny"), host) && anyGlob(content.Get("allow"), host)
}

func hostOf(server string) string {
	if strings.HasSuffix(server, "]") {
		return server
	}
	if i := strings.LastIndexByte(server, ':'); i >= 0 && strings.IndexByte(server[i:], ']') < 0 {
		return server[:i]
	}
	return server
}

func anyGlob(list gjson.Result, host string) bool {
	if !list.IsArray() {
		return false
	}
	found, seen := false, 0
	list.ForEach(func(_, entry gjson.Result) bool {
		seen++
		found = entry.Type == gjson.String && glob.Match(strings.ToLower(entry.Str), strings.ToLower(host))
		return !found && seen < maxACLEntries
	})
	return found
}
