package keys

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// Inspect judges what a server publishes about its keys: their ids, and until when the answer holds by its own word.
func Inspect(raw json.RawMessage, server string) (ids []string, until time.Time, err error) {
	a, err := parseAnswer(raw, server)
	if err != nil {
		return nil, time.Time{}, err
	}
	return slices.Sorted(maps.Keys(a.VerifyKeys)), time.UnixMilli(a.ValidUntil), nil
}
