package node

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"knock/internal/sqldb/sqldbtest"
)

// person is a user of a running node.
type person struct {
	t     *testing.T
	base  string
	token string
}

// do makes a request and returns the status and the answer.
func (p *person) do(method, path, body string) (int, gjson.Result) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.base+"/_matrix/client/v3/"+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, gjson.ParseBytes(data)
}

func (p *person) ok(method, path, body string) gjson.Result {
	p.t.Helper()
	status, answer := p.do(method, path, body)
	if status != http.StatusOK {
		p.t.Fatalf("%s %s: %d %s", method, path, status, answer.Raw)
	}
	return answer
}

// eachNode runs fn with a user on a node of each engine.
func eachNode(t *testing.T, fn func(t *testing.T, p *person)) {
	for name, database := range sqldbtest.URLs(t) {
		t.Run(name, func(t *testing.T) {
			n, stop := start(t, testConfig(t, database), io.Discard)
			defer func() {
				if err := stop(); err != nil {
					t.Error(err)
				}
			}()
			p := &person{t: t, base: n.ClientURL()}
			p.token = p.ok("POST", "register", `{"username":"alice","password":"long enough","auth":{"type":"m.login.dummy"}}`).Get("access_token").Str
			fn(t, p)
		})
	}
}

func TestSettingsOfReplacedRooms(t *testing.T) {
	eachNode(t, func(t *testing.T, p *person) {
		old := p.ok("POST", "createRoom", `{}`).Get("room_id").Str
		tags := func(room string) string {
			return "user/@alice:localhost/rooms/" + url.PathEscape(room) + "/tags"
		}
		p.ok("PUT", tags(old)+"/m.favourite", `{"order":0.5}`)
		p.ok("PUT", "pushrules/global/room/"+url.PathEscape(old), `{"actions":["dont_notify"]}`)
		const direct = "user/@alice:localhost/account_data/m.direct"
		p.ok("PUT", direct, `{"@bob:localhost":["`+old+`"],"@carol:localhost":["!other:localhost"],"@odd:localhost":7}`)
		next := p.ok("POST", "rooms/"+url.PathEscape(old)+"/upgrade", `{"new_version":"11"}`).Get("replacement_room").Str
		if got := p.ok("GET", tags(next), "").Raw; got != `{"tags":{"m.favourite":{"order":0.5}}}` {
			t.Errorf("tags %s", got)
		}
		if got := p.ok("GET", "pushrules/global/room/"+url.PathEscape(next)+"/actions", "").Raw; got != `{"actions":["dont_notify"]}` {
			t.Errorf("push rule %s", got)
		}
		if got, want := p.ok("GET", direct, "").Raw, `{"@bob:localhost":["`+old+`","`+next+`"],"@carol:localhost":["!other:localhost"],"@odd:localhost":7}`; got != want {
			t.Errorf("direct chats %s, want %s", got, want)
		}
		p.ok("POST", "createRoom", `{"creation_content":{"predecessor":{"room_id":"`+old+`"}}}`) // the old room names another one
		if got := p.ok("GET", direct, "").Get("@bob:localhost.#").Int(); got != 2 {
			t.Errorf("a room that only claims to replace it is among %d direct chats", got)
		}
	})
}

func TestReceiptsInThreads(t *testing.T) {
	eachNode(t, func(t *testing.T, p *person) {
		room := "rooms/" + url.PathEscape(p.ok("POST", "createRoom", `{}`).Get("room_id").Str)
		sent := 0
		send := func(kind, parent string) string {
			content := map[string]any{"body": "x", "msgtype": "m.text"}
			if parent != "" {
				content["m.relates_to"] = map[string]string{"rel_type": kind, "event_id": parent}
			}
			body, err := json.Marshal(content)
			if err != nil {
				t.Fatal(err)
			}
			sent++
			return p.ok("PUT", room+"/send/m.room.message/"+string(rune('a'+sent)), string(body)).Get("event_id").Str
		}
		root := send("", "")
		reply := send("m.thread", root)
		edit := send("m.replace", reply)
		about := send("m.reference", root)
		vote := send("m.annotation", about)
		far := send("m.annotation", send("m.reference", send("m.reference", vote)))
		for name, c := range map[string]struct {
			event, thread string
			status        int
		}{
			"of the thread":            {reply, root, 200},
			"of the thread, as main":   {reply, "main", 400},
			"an edit in the thread":    {edit, root, 200},
			"the root":                 {root, root, 200},
			"what relates to the root": {vote, root, 200},
			"it is in main as well":    {vote, "main", 200},
			"too far from the root":    {far, root, 400},
			"another thread":           {edit, vote, 400},
		} {
			status, answer := p.do("POST", room+"/receipt/m.read/"+url.PathEscape(c.event), `{"thread_id":"`+c.thread+`"}`)
			if status != c.status {
				t.Errorf("%s: %d %s, want %d", name, status, answer.Raw, c.status)
			}
		}
	})
}

// TestOpenIDWithoutFederation: third parties check tokens of servers that talk to no other one, too.
func TestOpenIDWithoutFederation(t *testing.T) {
	cfg := testConfig(t, "")
	cfg.Federation.Enabled = false
	n, stop := start(t, cfg, io.Discard)
	defer stop()
	p := &person{t: t, base: n.ClientURL()}
	account := p.ok("POST", "register", `{"username":"alice","password":"long enough","auth":{"type":"m.login.dummy"}}`)
	p.token = account.Get("access_token").Str
	user := account.Get("user_id").Str
	token := p.ok("POST", "user/"+url.PathEscape(user)+"/openid/request_token", `{}`).Get("access_token").Str
	body := get(t, http.DefaultClient, n.ClientURL()+"/_matrix/federation/v1/openid/userinfo?access_token="+url.QueryEscape(token))
	if got := gjson.Get(body, "sub").Str; got != user {
		t.Errorf("%s is not %s", body, user)
	}
	if body := get(t, http.DefaultClient, n.ClientURL()+"/_matrix/federation/v1/version"); gjson.Get(body, "errcode").Str != "M_UNRECOGNIZED" {
		t.Errorf("a server without federation says %s", body)
	}
}
