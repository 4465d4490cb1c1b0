package interop

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"knock/cmd/knock/demo/lab"
)

// aliases are asked for at their server, and lead into a room.
func aliases(t *testing.T, p *pair) {
	host, guest := p.people()
	local := fmt.Sprintf("harbour-ü-%d", p.started)
	alias := "#" + local + ":" + p.home.name()
	room := p.room(host, object{"room_alias_name": local})
	var found struct {
		ID      string `json:"room_id"`
		Servers []string
	}
	guest.get(lab.V3("directory", "room", alias), &found)
	if found.ID != room || len(found.Servers) != 1 || found.Servers[0] != p.home.name() {
		t.Errorf("the directory says %+v", found)
	}
	none := "#none:" + p.home.name()
	guest.refused("an alias that does not exist", guest.Call(p.ctx, http.MethodGet, lab.V3("directory", "room", none), nil, nil), "M_NOT_FOUND")
	guest.refused("joins by an alias that does not exist", guest.tryJoin(none), "M_NOT_FOUND")
	guest.join(alias)
	host.seesMember(room, guest, "join")
	canonical := must(guest.content(room, "m.room.canonical_alias", ""))(guest)
	same(t, "the canonical alias", canonical, object{"alias": alias})
	other := "#" + local + ":" + p.away.name()
	guest.call(http.MethodPut, lab.V3("directory", "room", other), object{"room_id": room}, nil)
	host.get(lab.V3("directory", "room", other), &found)
	if found.ID != room || len(found.Servers) != 2 {
		t.Errorf("the directory says %+v", found)
	}
	host.set(room, "m.room.canonical_alias", "", object{"alias": alias, "alt_aliases": []string{other}})
	agree(room, host, guest)
	host.call(http.MethodDelete, lab.V3("directory", "room", alias), nil, nil)
	guest.refused("an alias that is gone", guest.Call(p.ctx, http.MethodGet, lab.V3("directory", "room", alias), nil, nil), "M_NOT_FOUND")
}

type chunk struct {
	Chunk []struct {
		ID       string `json:"room_id"`
		Name     string
		Topic    string
		Alias    string `json:"canonical_alias"`
		Members  int    `json:"num_joined_members"`
		Readable bool   `json:"world_readable"`
		Guests   bool   `json:"guest_can_join"`
		JoinRule string `json:"join_rule"`
		Type     string `json:"room_type"`
	}
	Next  string `json:"next_batch"`
	Total int    `json:"total_room_count_estimate"`
}

// directory is the other server's list of public rooms: all, page by page, and searched.
func directory(t *testing.T, p *pair) {
	host, guest := p.people()
	word := fmt.Sprintf("lighthouse%d", p.started)
	rooms := map[string]bool{}
	for i := range 3 {
		rooms[p.room(host, object{"visibility": "public", "name": fmt.Sprint(word, i), "topic": "ships"})] = true
	}
	p.room(host, object{"name": word + " unlisted"})
	list := func(q url.Values, body any) (c chunk) {
		t.Helper()
		q.Set("server", p.home.name())
		method := http.MethodGet
		if body != nil {
			method = http.MethodPost
		}
		guest.call(method, lab.V3("publicRooms")+"?"+q.Encode(), body, &c)
		return c
	}
	whole := list(url.Values{}, nil)
	seen := 0
	for _, r := range whole.Chunk {
		if rooms[r.ID] {
			seen++
			if r.Topic != "ships" || r.Members != 1 || r.JoinRule != "public" {
				t.Errorf("an entry: %+v", r)
			}
		}
	}
	if seen != 3 || whole.Total < 3 {
		t.Errorf("%d of 3 rooms are listed, %d in all", seen, whole.Total)
	}
	filter := object{"generic_search_term": word}
	first := list(url.Values{}, object{"limit": 2, "filter": filter})
	if len(first.Chunk) != 2 || first.Next == "" {
		t.Fatalf("the first page of a search: %+v", first)
	}
	rest := list(url.Values{}, object{"limit": 2, "filter": filter, "since": first.Next})
	if len(rest.Chunk) != 1 || rest.Chunk[0].ID == first.Chunk[0].ID || rest.Chunk[0].ID == first.Chunk[1].ID {
		t.Errorf("the second page of a search: %+v", rest)
	}
}

// spaces: the rooms of a space that only the other server knows.
func spaces(t *testing.T, p *pair) {
	host, guest := p.people()
	space := p.room(host, object{"creation_content": object{"type": "m.space"}, "name": "Harbour"})
	child := p.room(host, object{"name": "Pier"})
	secret := p.room(host, object{"preset": "private_chat", "name": "Vault"})
	for _, room := range []string{child, secret} {
		host.set(space, "m.space.child", room, object{"via": []string{p.home.name()}})
	}
	guest.join(space, p.home)
	var found struct {
		Rooms []struct {
			ID   string `json:"room_id"`
			Name string
			Type string `json:"room_type"`
		}
	}
	guest.eventually(func() error {
		guest.get("/_matrix/client/v1/rooms/"+url.PathEscape(space)+"/hierarchy", &found)
		if len(found.Rooms) != 2 || found.Rooms[0].ID != space || found.Rooms[0].Type != "m.space" || found.Rooms[1].ID != child || found.Rooms[1].Name != "Pier" {
			return fmt.Errorf("the hierarchy: %+v", found.Rooms)
		}
		return nil
	})
}
