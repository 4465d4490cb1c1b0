package auth

import (
	"net"
	"strings"

	"github.com/tidwall/gjson"

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
	list.ForEach(func(_, glob gjson.Result) bool {
		seen++
		found = glob.Type == gjson.String && Glob(strings.ToLower(glob.Str), strings.ToLower(host))
		return !found && seen < maxACLEntries
	})
	return found
}

// Glob matches text against a pattern of literal characters, * and ?, in time
// linear in the product of their lengths.
func Glob(pattern, text string) bool {
	p, t := []rune(pattern), []rune(text)
	star, mark, i := -1, 0, 0
	j := 0
	for i < len(t) {
		switch {
		case j < len(p) && p[j] == '*':
			star, mark = j, i
			j++
		case j < len(p) && (p[j] == '?' || p[j] == t[i]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = mark, star+1
		default:
			return false
		}
	}
	for j < len(p) && p[j] == '*' {
		j++
	}
	return j == len(p)
}
