package interop

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"net/http"
	"slices"
	"strings"
	"testing"

	"knock/cmd/knock/demo/lab"
)

// ephemeral is typing, receipts and presence both ways.
func ephemeral(_ *testing.T, p *pair) {
	room, host, guest := p.together()
	for _, pair := range [][2]*person{{host, guest}, {guest, host}} {
		from, to := pair[0], pair[1]
		typing(from, to, room)
		id := to.say(room, "read me")
		from.sees(room, id)
		from.call(http.MethodPost, lab.V3("rooms", room, "receipt", "m.read", id), object{}, nil)
		to.until(func(v *lab.View) error {
			if got := v.Room(room).Receipts[from.UserID]; got != id {
				return fmt.Errorf("%s has read %q", from.UserID, got)
			}
			return nil
		})
		for _, status := range []string{"unavailable", "online"} {
			from.call(http.MethodPut, lab.V3("presence", from.UserID, "status"), object{"presence": status, "status_msg": "at " + status}, nil)
			to.until(func(v *lab.View) error {
				if got := v.Presence[from.UserID]; got != status {
					return fmt.Errorf("%s is %q, not %q", from.UserID, got, status)
				}
				return nil
			})
		}
	}
}

func typing(from, to *person, room string) {
	from.t.Helper()
	for _, on := range []bool{true, false} {
		from.call(http.MethodPut, lab.V3("rooms", room, "typing", from.UserID), object{"typing": on, "timeout": 20000}, nil)
		to.until(func(v *lab.View) error {
			if got := v.Room(room).Typing; slices.Contains(got, from.UserID) != on {
				return fmt.Errorf("typing: %v", got)
			}
			return nil
		})
	}
}

// profiles: asked for over federation, and changes that members of a room hear of.
func profiles(t *testing.T, p *pair) {
	room, host, guest := p.together()
	for _, pair := range [][2]*person{{host, guest}, {guest, host}} {
		from, to := pair[0], pair[1]
		from.call(http.MethodPut, lab.V3("profile", from.UserID, "displayname"), object{"displayname": "Zoë 🦊"}, nil)
		from.call(http.MethodPut, lab.V3("profile", from.UserID, "avatar_url"), object{"avatar_url": "mxc://example.org/face"}, nil)
		to.until(func(v *lab.View) error {
			member := v.Room(room).State[lab.Key{Type: "m.room.member", StateKey: from.UserID}]
			if member.Text("displayname") != "Zoë 🦊" || member.Text("avatar_url") != "mxc://example.org/face" {
				return fmt.Errorf("the member event has %s", member.Content)
			}
			return nil
		})
		var got object
		to.get(lab.V3("profile", from.UserID), &got)
		if got["displayname"] != "Zoë 🦊" || got["avatar_url"] != "mxc://example.org/face" {
			t.Errorf("the profile: %v", got)
		}
		got = nil
		to.get(lab.V3("profile", from.UserID, "displayname"), &got)
		same(t, "a field of the profile", got, object{"displayname": "Zoë 🦊"})
		nobody := "@nobody:" + from.server.name()
		to.refused("a profile of nobody", to.Call(p.ctx, http.MethodGet, lab.V3("profile", nobody), nil, nil), "M_NOT_FOUND")
	}
	agree(room, host, guest)
}

// media goes through the user's own server, whole and as a thumbnail.
func media(t *testing.T, p *pair) {
	host, guest := p.people()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewRGBA(image.Rect(0, 0, 320, 240))); err != nil {
		t.Fatal(err)
	}
	uri := must(host.Upload(p.ctx, "parcel ü.png", "image/png", b.Bytes()))(host)
	data, kind, err := guest.Download(p.ctx, uri)
	if err != nil || kind != "image/png" || !bytes.Equal(data, b.Bytes()) {
		t.Errorf("downloaded %d bytes of %q, %v", len(data), kind, err)
	}
	thumbnail(t, guest, uri)
	none := "mxc://" + p.home.name() + "/doesnotexist"
	_, _, err = guest.Download(p.ctx, none)
	guest.refused("a file that does not exist", err, "M_NOT_FOUND")
	text := must(host.Upload(p.ctx, "notes.txt", "text/plain", []byte("plain")))(host)
	data, kind, err = guest.Download(p.ctx, text)
	if err != nil || !strings.HasPrefix(kind, "text/plain") || string(data) != "plain" {
		t.Errorf("downloaded %q of %q, %v", data, kind, err)
	}
}

func thumbnail(t *testing.T, p *person, uri string) {
	t.Helper()
	path := "/_matrix/client/v1/media/thumbnail/" + strings.TrimPrefix(uri, "mxc://") + "?width=32&height=32&method=crop"
	r, err := http.NewRequestWithContext(p.ctx, http.MethodGet, p.BaseURL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+p.Token)
	resp, err := p.HTTP.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	m, _, err := image.DecodeConfig(resp.Body)
	if err != nil || m.Width != 32 || m.Height != 32 {
		t.Errorf("the thumbnail: %d %+v, %v", resp.StatusCode, m, err)
	}
}
