package roomserver

import (
	"encoding/json"
	"testing"

	"github.com/tidwall/gjson"
)

// FuzzRedemption reads what strangers say about addresses; what passes is about the user whom it names.
func FuzzRedemption(f *testing.F) {
	f.Add("!r:a", "@s:a", "@u:b", []byte(`{"mxid":"@u:b","token":"t","signatures":{"id":{"ed25519:0":"x"}}}`))
	f.Add("", "@s:a", "@u:b", []byte(`{"mxid":7,"token":[]}`))
	f.Add("!r", "x", "@u:b", []byte(`"\ud800"`))
	f.Fuzz(func(t *testing.T, room, sender, user string, signed []byte) {
		q := Redemption{RoomID: room, Sender: sender, User: user, Signed: signed}
		if q.check() != nil {
			return
		}
		if !json.Valid(signed) || len(signed) > maxSigned || gjson.GetBytes(signed, "mxid").Str != user {
			t.Errorf("%+v passed", q)
		}
	})
}
