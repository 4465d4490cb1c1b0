package account

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// TestAccountDataIsBounded: a user fills so much and no more, and can always make things smaller.
func TestAccountDataIsBounded(t *testing.T) {
	each(t, func(t *testing.T, s *Service, _ *clock) {
		if _, err := s.CreateUser(t.Context(), NewUser{Username: "alice"}); err != nil {
			t.Fatal(err)
		}
		put := func(kind string, size int) error {
			return s.PutAccountData(t.Context(), "@alice:example.org", "", kind, json.RawMessage(`{"v":"`+strings.Repeat("x", size)+`"}`))
		}
		const large = 4 << 20
		for i := range maxDataBytes/large - 1 {
			if err := put(fmt.Sprint(i), large); err != nil {
				t.Fatal(err)
			}
		}
		if err := put("another", large); code(err) != "M_TOO_LARGE" {
			t.Error("a row too many:", err)
		}
		if err := put("small", 10); err != nil {
			t.Error(err)
		}
		if err := put("small", large); code(err) != "M_TOO_LARGE" {
			t.Error("a row that grew too much:", err)
		}
		if err := put("0", 10); err != nil {
			t.Error(err)
		}
		if err := put("another", large); err != nil {
			t.Error("there is room again:", err)
		}
	})
}
