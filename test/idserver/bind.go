package idserver

import (
	"encoding/json"
	"net/http"
)

// Validate makes a session in which an address was confirmed.
func (s *Server) Validate(sid, clientSecret, address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions == nil {
		s.sessions = map[[2]string]string{}
	}
	s.sessions[[2]string{sid, clientSecret}] = address
}

// Bound is the user whose an address is, "" for nobody's.
func (s *Server) Bound(address string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bound[address]
}

// OnUnbind sets who checks the signature of requests to unbind.
func (s *Server) OnUnbind(check func(authorization string, body []byte) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signed = check
}

func (s *Server) bind(w http.ResponseWriter, r *http.Request) {
	var q struct {
		SID    string `json:"sid"`
		Secret string `json:"client_secret"`
		User   string `json:"mxid"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		answer(w, http.StatusBadRequest, map[string]any{"errcode": "M_NOT_JSON"})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	address, ok := s.sessions[[2]string{q.SID, q.Secret}]
	if !ok {
		answer(w, http.StatusNotFound, map[string]any{"errcode": "M_NO_VALID_SESSION", "error": "No such session"})
		return
	}
	s.bound[address] = q.User
	answer(w, http.StatusOK, map[string]any{"medium": "email", "address": address, "mxid": q.User})
}

func (s *Server) unbind(w http.ResponseWriter, r *http.Request) {
	var body json.RawMessage
	var q struct {
		User     string `json:"mxid"`
		Threepid struct {
			Address string `json:"address"`
		} `json:"threepid"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || json.Unmarshal(body, &q) != nil {
		answer(w, http.StatusBadRequest, map[string]any{"errcode": "M_NOT_JSON"})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.signed(r.Header.Get("Authorization"), body); err != nil {
		answer(w, http.StatusForbidden, map[string]any{"errcode": "M_FORBIDDEN", "error": err.Error()})
		return
	}
	if s.bound[q.Threepid.Address] == q.User {
		delete(s.bound, q.Threepid.Address)
	}
	answer(w, http.StatusOK, map[string]any{})
}
