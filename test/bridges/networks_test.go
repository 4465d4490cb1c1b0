package bridges

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

type object = map[string]any

// TestNetworks has clients ask for what is behind bridges. One of them is never there.
func TestNetworks(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		v := newService(t, "protocols: [irc, both]")
		gone := filepath.Join(t.TempDir(), "gone.yaml")
		text := "id: gone\nurl: http://127.0.0.1:1\nas_token: gone-as-token\nhs_token: gone-hs-token\nsender_localpart: gone\nnamespaces:\nprotocols: [both, lost]\n"
		if err := os.WriteFile(gone, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		n := s.Start(server, "registration.mode=open", "app_service_files=["+gone+", "+v.file+"]")
		b := bot{t, n.Client()}
		b.c.Token = asToken
		alice := n.MustRegister("alice")
		var asked url.Values
		v.network = func(path string, query url.Values) any {
			asked = query
			switch path {
			case "protocol/irc", "protocol/both":
				return object{"user_fields": []string{"network", "nickname"}, "location_fields": []string{"network", "channel"}, "icon": "mxc://a/b",
					"field_types": object{}, "instances": []object{{"desc": "Libera", "network_id": "libera", "fields": object{"network": "libera.chat"}}}}
			case "location/irc":
				return []object{{"alias": "#irc_x:" + server, "protocol": "irc", "fields": object{"channel": "#x"}}, {"alias": 5}, {"protocol": "irc"}}
			case "user/irc":
				return []object{}
			case "location":
				return []object{{"alias": query.Get("alias"), "protocol": "irc", "fields": object{}}}
			case "user":
				return "junk"
			}
			return nil
		}
		get := func(path string) (out any, err error) {
			err = alice.Call(t.Context(), "GET", lab.V3("thirdparty")+"/"+path, nil, &out)
			return out, err
		}
		all, err := get("protocols")
		if err != nil {
			t.Fatal(err)
		}
		protocols, _ := all.(object)
		if len(protocols) != 2 || protocols["irc"] == nil || protocols["both"] == nil {
			t.Errorf("protocols %v", all)
		}
		one, err := get("protocol/irc")
		if encoded, _ := json.Marshal(one); err != nil || !strings.Contains(string(encoded), `"instance_id":"irc|libera"`) || !strings.Contains(string(encoded), `"user_fields":["network","nickname"]`) {
			t.Errorf("%v %v", one, err)
		}
		for _, unknown := range []string{"protocol/lost", "protocol/none", "location/none", "user/irc", "user?userid=@x:y"} {
			_, err := get(unknown)
			refused(t, err, 404, "M_NOT_FOUND")
		}
		for _, bad := range []string{"location", "user"} {
			_, err := get(bad)
			refused(t, err, 400, "M_MISSING_PARAM")
		}
		found, err := get("location/irc?channel=%23x&network=libera.chat&access_token=secret")
		if list, _ := found.([]any); err != nil || len(list) != 1 || list[0].(object)["alias"] != "#irc_x:"+server {
			t.Errorf("%v %v", found, err)
		}
		if asked.Get("channel") != "#x" || asked.Get("network") != "libera.chat" || asked.Has("access_token") {
			t.Errorf("it was asked for %v", asked)
		}
		if found, err = get("location?alias=" + url.QueryEscape("#irc_x:"+server)); err != nil || !strings.Contains(fmt.Sprint(found), "#irc_x:"+server) {
			t.Errorf("%v %v", found, err)
		}
	})
}

func TestNetworkDirectories(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		n, _, b := start(t, s)
		alice := n.MustRegister("alice")
		create := func(name, visibility string) string {
			return b.as("", "POST", lab.V3("createRoom"), object{"preset": "public_chat", "name": name, "visibility": visibility})["room_id"].(string)
		}
		bridged, other, open := create("bridged", "private"), create("other", "private"), create("open", "public")
		list := func(network, room string) string { return lab.V3("directory", "list", "appservice", network, room) }
		public := object{"visibility": "public"}
		b.as("", "PUT", list("libera", bridged), public)
		b.as("", "PUT", list("libera", bridged), public)
		b.as("", "PUT", list("oftc", other), public)
		refused(t, alice.Call(t.Context(), "PUT", list("libera", open), public, nil), 403, "M_FORBIDDEN")
		refused(t, b.try("", "PUT", list("libera", "!none:"+server), public, nil), 404, "M_NOT_FOUND")
		refused(t, b.try("", "PUT", list("libera", bridged), object{}, nil), 400, "M_INVALID_PARAM")
		search := func(body object) (names []string) {
			var page struct{ Chunk []struct{ Name string } }
			if err := alice.Call(t.Context(), "POST", lab.V3("publicRooms"), body, &page); err != nil {
				t.Fatal(err)
			}
			for _, room := range page.Chunk {
				names = append(names, room.Name)
			}
			slices.Sort(names)
			return names
		}
		expect := func(body object, want ...string) {
			t.Helper()
			if got := search(body); !slices.Equal(got, want) {
				t.Errorf("%v finds %v", body, got)
			}
		}
		expect(object{}, "open")
		expect(object{"include_all_networks": true}, "bridged", "open", "other")
		expect(object{"third_party_instance_id": "irc|libera"}, "bridged")
		expect(object{"third_party_instance_id": "irc|none"})
		expect(object{"third_party_instance_id": "none"})
		refused(t, alice.Call(t.Context(), "POST", lab.V3("publicRooms"), object{"include_all_networks": true, "third_party_instance_id": "irc|libera"}, nil), 400, "M_INVALID_PARAM")
		b.as("", "PUT", list("libera", bridged), object{"visibility": "private"})
		expect(object{"include_all_networks": true}, "open", "other")
	})
}

// TestRateLimits: a registration says whether users of its namespaces are limited; its sender never is.
func TestRateLimits(t *testing.T) {
	for _, limited := range []bool{true, false} {
		s := hstest.New(t, 0)
		v := newService(t)
		if limited {
			raw, err := os.ReadFile(v.file)
			if err == nil {
				err = os.WriteFile(v.file, []byte(strings.Replace(string(raw), "rate_limited: false", "rate_limited: true", 1)), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		n := s.Start(server, "app_service_files=["+v.file+"]", "rate_limits.enabled=true", "rate_limits.classes={message: {per_second: 0.001, burst: 3}}")
		b := bot{t, n.Client()}
		b.c.Token = asToken
		if err := b.register("irc_zoe"); err != nil {
			t.Fatal(err)
		}
		room := b.as("", "POST", lab.V3("createRoom"), object{"preset": "public_chat"})["room_id"].(string)
		b.as("irc_zoe", "POST", lab.V3("rooms", room, "join"), object{})
		for i := range 10 {
			b.say("", room, fmt.Sprint("s", i))
		}
		var err error
		for i := range 10 {
			if e := b.try("irc_zoe", "PUT", lab.V3("rooms", room, "send", "m.room.message", fmt.Sprint(i)), object{"body": "x"}, nil); e != nil {
				err = e
			}
		}
		if limited {
			refused(t, err, 429, "M_LIMIT_EXCEEDED")
		} else if err != nil {
			t.Error(err)
		}
	}
}
