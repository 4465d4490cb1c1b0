package liar

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"knock/cmd/knock/demo/lab"
	"knock/roomserver/event"
)

// TestServerKeys makes requests as a server that lies about its keys.
func TestServerKeys(t *testing.T) {
	answer := func(name, want string, lie func(s *scene, p *Peer) Lie) row {
		return row{name: name, want: want, lie: func(s *scene) {
			p := s.newPeer()
			p.Tell("key", lie(s, p))
			s.note("%s", code(p.JSON(s.ctx, s.a, "GET", "/_matrix/federation/v1/query/profile?user_id=@alice:a.test", nil)))
		}}
	}
	keys := func(name, want string, change func(Object)) row {
		return answer(name, want, func(_ *scene, p *Peer) Lie {
			return func(w http.ResponseWriter, _ *http.Request, _ Object) { Write(w, p.Keys(change)) }
		})
	}
	const no = "401 M_UNAUTHORIZED"
	play(t, []row{
		keys("the truth", "200", nil),
		keys("for ever", "200", func(o Object) { o["valid_until_ts"] = 1<<53 - 1 }),
		keys("no longer valid", no, func(o Object) { o["valid_until_ts"] = time.Now().Add(-time.Hour).UnixMilli() }),
		keys("never valid", no, func(o Object) { delete(o, "valid_until_ts") }),
		keys("of another server", no, func(o Object) { o["server_name"] = "c.test" }),
		keys("of the node", no, func(o Object) { o["server_name"] = "a.test" }),
		keys("of nobody", no, func(o Object) { delete(o, "server_name") }),
		keys("in use and retired at once", no, func(o Object) {
			o["old_verify_keys"] = Object{"ed25519:1": Object{"key": o["verify_keys"].(Object)["ed25519:1"].(Object)["key"], "expired_ts": 1}}
		}),
		keys("65 keys", no, func(o Object) {
			list := o["verify_keys"].(Object)
			for i := range 64 {
				list[fmt.Sprint("ed25519:x", i)] = list["ed25519:1"]
			}
		}),
		keys("half a key", no, func(o Object) {
			o["verify_keys"] = Object{"ed25519:1": Object{"key": base64.RawStdEncoding.EncodeToString(make([]byte, 16))}}
		}),
		keys("keys that are no object", no, func(o Object) { o["verify_keys"] = []string{"x"} }),
		keys("200 KB", no, func(o Object) { o["x"] = strings.Repeat("x", 200<<10) }),
		answer("not signed", no, func(_ *scene, p *Peer) Lie {
			return bend(func(o Object) { delete(o, "signatures") })
		}),
		answer("changed after it was signed", no, func(*scene, *Peer) Lie {
			return bend(func(o Object) { o["valid_until_ts"] = time.Now().Add(time.Hour).UnixMilli() })
		}),
		answer("signed by another server", no, func(s *scene, p *Peer) Lie {
			return bend(func(o Object) {
				delete(o, "signatures")
				o["signatures"] = SignObject(o, s.peer.Signer)["signatures"]
			})
		}),
		answer("without end", no, func(*scene, *Peer) Lie { return endless(`{"x":"`, "x") }),
		answer("no JSON", no, func(*scene, *Peer) Lie { return say(`{"server_name":`) }),
		answer("a redirect to another server", no, func(s *scene, p *Peer) Lie {
			return func(w http.ResponseWriter, r *http.Request, _ Object) {
				http.Redirect(w, r, "https://"+s.peer.server.Listener.Addr().String()+"/_matrix/key/v2/server", http.StatusFound)
			}
		}),
		{name: "a key that was retired", want: "the new key holds; the retired key holds no longer; nor does it when it is listed beside the new one", lie: func(s *scene) {
			old, p := s.peer.Signer, s.peer
			retired := time.Now().Add(-time.Hour).UnixMilli()
			publish := func(lists ...string) {
				p.Tell("key", func(w http.ResponseWriter, _ *http.Request, _ Object) {
					Write(w, p.Keys(func(o Object) {
						oldKey := Object{"key": p.oldKey(old)}
						for _, name := range lists {
							entry := Object{"key": oldKey["key"]}
							if name == "old_verify_keys" {
								entry["expired_ts"] = retired
							}
							o[name].(Object)[old.KeyID] = entry
						}
					}))
				})
			}
			p.Signer = NewSigner(p.Name, "2")
			publish("old_verify_keys")
			s.must(lab.Poll(s.ctx, func() error { // until the node asks again
				e := s.room.Make(s.draft("with the new key"))
				status, answer := s.transact(e.EventID()[1:9], e.JSON())
				if result, ok := answer.Get("pdus").Map()[e.EventID()]; status != 200 || !ok || result.Get("error").Exists() {
					return errors.New(answer.Raw)
				}
				s.room.Add(e)
				return nil
			}))
			s.note("the new key holds")
			stolen := func() bool {
				d := s.draft("with the old key")
				d.Signer = &old
				e := s.room.Make(d)
				_, answer := s.transact(e.EventID()[1:9], e.JSON())
				return answer.Get("pdus").Map()[e.EventID()].Get("error").Exists() && !s.has(e.EventID())
			}
			if stolen() {
				s.note("the retired key holds no longer")
			}
			publish("old_verify_keys", "verify_keys")
			if stolen() {
				s.note("nor does it when it is listed beside the new one")
			}
		}},
	})
}

func (p *Peer) oldKey(s event.Signer) string {
	now := p.Signer
	p.Signer = s
	defer func() { p.Signer = now }()
	return p.Keys(nil)["verify_keys"].(Object)[s.KeyID].(Object)["key"].(string)
}

// TestRoutes has alice join rooms through servers that nobody may be led to.
func TestRoutes(t *testing.T) {
	through := func(name, want string, server func(s *scene) string) row {
		return row{name: name, want: want, lie: func(s *scene) {
			_, err := s.alice.Join(s.ctx, "!somewhere:"+s.peer.Name, server(s))
			s.note("%s", failed(err))
		}}
	}
	const no = "502 M_UNKNOWN"
	play(t, []row{
		through("a private address", no, func(*scene) string { return "10.0.0.1" }),
		through("the address of a cloud's host", no, func(*scene) string { return "169.254.169.254:80" }),
		through("an IPv6 address of this machine", no, func(*scene) string { return "[::1]:8008" }),
		through("an IPv4 address in an IPv6 one", no, func(*scene) string { return "[::ffff:10.0.0.1]:80" }),
		through("a name that is not there", no, func(*scene) string { return "nowhere.test" }),
		through("what is no name", "404 M_NOT_FOUND", func(*scene) string { return "a.test/path?x=@" }),
		through("the node itself", "404 M_NOT_FOUND", func(*scene) string { return "a.test" }),
		{name: "a redirect", want: no + "; the other one was asked 0 times", lie: func(s *scene) {
			other := s.newPeer()
			s.peer.Tell("make_join", func(w http.ResponseWriter, r *http.Request, _ Object) {
				http.Redirect(w, r, "https://"+other.server.Listener.Addr().String()+r.URL.RequestURI(), http.StatusTemporaryRedirect)
			})
			_, err := s.alice.Join(s.ctx, "!somewhere:"+s.peer.Name, s.peer.Name)
			s.note("%s; the other one was asked %d times", failed(err), other.Asked("make_join"))
		}},
	})
}
