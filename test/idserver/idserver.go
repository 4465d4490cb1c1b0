// Package idserver owns an identity server for tests: it knows addresses, keeps invites, signs, and can be told to
// misbehave.
package idserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"knock/roomserver/event"
)

// Token is the access token that everybody uses.
const Token = "identity token"

const pepper = "matrixrocks"

// Server is an identity server.
type Server struct {
	*httptest.Server
	Name string // its host and port

	key       ed25519.PrivateKey
	ephemeral ed25519.PrivateKey

	mu       sync.Mutex
	bound    map[string]string // address → user
	invites  map[string][]Invite
	revoked  bool
	nullHash bool
	next     []http.HandlerFunc
	asked    []string             // paths, in order
	sessions map[[2]string]string // sid and secret → address
	signed   func(authorization string, body []byte) error
}

// Invite is what was stored.
type Invite struct {
	Token string
	Body  map[string]any
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
	s := &Server{bound: map[string]string{}, invites: map[string][]Invite{}}
	for _, key := range []*ed25519.PrivateKey{&s.key, &s.ephemeral} {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		*key = private
	}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(s.serve))
	s.Name = strings.TrimPrefix(s.URL, "https://")
	t.Cleanup(s.Close)
	return s
}

// Know binds an address without telling anybody.
func (s *Server) Know(address, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bound[address] = user
}

// Revoke makes the keys invalid.
func (s *Server) Revoke(revoked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revoked = revoked
}

// PlainOnly offers lookups without hashes alone.
func (s *Server) PlainOnly() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nullHash = true
}

// Misbehave answers the next requests otherwise.
func (s *Server) Misbehave(next ...http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = append(s.next, next...)
}

// Asked returns the paths of the requests since the last call.
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

// Invites returns what is stored for an address.
func (s *Server) Invites(address string) []Invite {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.invites[address]
}

// Sign gives the word that a user has the address of an invite. Further fields are signed with it.
func (s *Server) Sign(token, user string, more map[string]any) (json.RawMessage, error) {
	word := map[string]any{"mxid": user, "token": token}
	for k, v := range more {
		word[k] = v
	}
	raw, err := json.Marshal(word)
	if err != nil {
		return nil, err
	}
	return event.SignJSON(raw, event.Signer{Server: s.Name, KeyID: "ed25519:0", Key: s.key})
}

// Bind binds an address and tells the homeserver at base, which is the user's.
func (s *Server) Bind(ctx context.Context, address, user, base string) error {
	s.Know(address, user)
	invites := []map[string]any{}
	for _, i := range s.Invites(address) {
		signed, err := s.Sign(i.Token, user, nil)
		if err != nil {
			return err
		}
		invites = append(invites, map[string]any{"medium": "email", "address": address, "mxid": user, "room_id": i.Body["room_id"], "sender": i.Body["sender"], "signed": signed})
	}
	raw, err := json.Marshal(map[string]any{"medium": "email", "address": address, "mxid": user, "invites": invites})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, base+"/_matrix/federation/v1/3pid/onbind", bytes.NewReader(raw))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("onbind: %d %s", resp.StatusCode, body)
	}
	return nil
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/_matrix/identity/v2/")
	s.mu.Lock()
	s.asked = append(s.asked, path)
	var odd http.HandlerFunc
	if len(s.next) > 0 {
		odd, s.next = s.next[0], s.next[1:]
	}
	s.mu.Unlock()
	switch {
	case odd != nil:
		odd(w, r)
	case path == "3pid/unbind":
		s.unbind(w, r)
	case strings.HasPrefix(path, "pubkey/"):
		s.answerKey(w, r)
	case r.Header.Get("Authorization") != "Bearer "+Token:
		answer(w, http.StatusUnauthorized, map[string]any{"errcode": "M_UNAUTHORIZED"})
	case path == "hash_details":
		s.hashDetails(w)
	case path == "lookup":
		s.lookup(w, r)
	case path == "3pid/bind":
		s.bind(w, r)
	case path == "store-invite":
		s.store(w, r)
	default:
		answer(w, http.StatusNotFound, map[string]any{"errcode": "M_UNRECOGNIZED"})
	}
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // who asked may be gone
}

func (s *Server) answerKey(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := r.URL.Query().Get("public_key")
	known := asked == public(s.key) || asked == public(s.ephemeral)
	answer(w, http.StatusOK, map[string]any{"valid": known && !s.revoked})
}

func public(key ed25519.PrivateKey) string {
	return base64.RawStdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
}

func (s *Server) hashDetails(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	algorithms := []string{"none", "sha256"}
	if s.nullHash {
		algorithms = algorithms[:1]
	}
	answer(w, http.StatusOK, map[string]any{"lookup_pepper": pepper, "algorithms": algorithms})
}

func (s *Server) lookup(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Algorithm string
		Pepper    string
		Addresses []string
	}
	if json.NewDecoder(r.Body).Decode(&q) != nil || q.Pepper != pepper {
		answer(w, http.StatusBadRequest, map[string]any{"errcode": "M_INVALID_PEPPER"})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[string]string{}
	for address, user := range s.bound {
		name := address + " email"
		if q.Algorithm == "sha256" {
			sum := sha256.Sum256([]byte(name + " " + pepper))
			name = base64.RawURLEncoding.EncodeToString(sum[:])
		}
		for _, asked := range q.Addresses {
			if asked == name {
				found[name] = user
			}
		}
	}
	answer(w, http.StatusOK, map[string]any{"mappings": found})
}

func (s *Server) store(w http.ResponseWriter, r *http.Request) {
	var body map[string]any
	if json.NewDecoder(r.Body).Decode(&body) != nil || body["medium"] != "email" {
		answer(w, http.StatusBadRequest, map[string]any{"errcode": "M_UNRECOGNIZED"})
		return
	}
	address, _ := body["address"].(string)
	s.mu.Lock()
	defer s.mu.Unlock()
	if user, ok := s.bound[address]; ok {
		answer(w, http.StatusBadRequest, map[string]any{"errcode": "M_THREEPID_IN_USE", "mxid": user})
		return
	}
	i := Invite{Token: rand.Text(), Body: body}
	s.invites[address] = append(s.invites[address], i)
	valid := s.URL + "/_matrix/identity/v2/pubkey/"
	answer(w, http.StatusOK, map[string]any{"token": i.Token, "display_name": "b...@t...", "public_keys": []map[string]string{
		{"public_key": public(s.key), "key_validity_url": valid + "isvalid"},
		{"public_key": public(s.ephemeral), "key_validity_url": valid + "ephemeral/isvalid"}}})
}
