package account

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" // the algorithm that the tools use
	"encoding/hex"
	"net/http"
	"sync"
	"time"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

const (
	nonceLifetime = time.Minute
	maxNonces     = 1000
)

// nonces are given out once, used once, and forgotten after a minute.
type nonces struct {
	now func() time.Time
	mu  sync.Mutex
	m   map[string]time.Time // when given
}

func newNonces(now func() time.Time) *nonces { return &nonces{now: now, m: map[string]time.Time{}} }

func (n *nonces) give() (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.now()
	for nonce, at := range n.m {
		if now.Sub(at) >= nonceLifetime {
			delete(n.m, nonce)
		}
	}
	if len(n.m) >= maxNonces {
		return "", matrixerr.LimitExceeded(nonceLifetime)
	}
	nonce := rand.Text()
	n.m[nonce] = now
	return nonce, nil
}

func (n *nonces) use(nonce string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, ok := n.m[nonce]
	delete(n.m, nonce)
	return ok && n.now().Sub(at) < nonceLifetime
}

func (a *API) secretNonce(context.Context, *httpx.Request) (any, error) {
	nonce, err := a.nonces.give()
	if err != nil {
		return nil, err
	}
	return map[string]string{"nonce": nonce}, nil
}

type secretRequest struct {
	Nonce       string  `json:"nonce"`
	Username    string  `json:"username"`
	DisplayName string  `json:"displayname"`
	Password    string  `json:"password"`
	Admin       bool    `json:"admin"`
	UserType    *string `json:"user_type"`
	MAC         string  `json:"mac"`
}

// mac is the HMAC-SHA1 over nonce, user, password, admin and, if given, user type, with zero bytes between.
func (r secretRequest) mac(secret string) []byte {
	h := hmac.New(sha1.New, []byte(secret))
	rights := "notadmin"
	if r.Admin {
		rights = "admin"
	}
	h.Write([]byte(r.Nonce + "\x00" + r.Username + "\x00" + r.Password + "\x00" + rights))
	if r.UserType != nil && *r.UserType != "" {
		h.Write([]byte("\x00" + *r.UserType))
	}
	return h.Sum(nil)
}

func (a *API) secretRegister(ctx context.Context, r *httpx.Request) (any, error) {
	var req secretRequest
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	if req.Nonce == "" || req.Username == "" || req.Password == "" || req.MAC == "" {
		return nil, matrixerr.MissingParam("nonce, username, password and mac are needed")
	}
	if !a.nonces.use(req.Nonce) {
		return nil, matrixerr.Unknown(http.StatusBadRequest, "This nonce is unknown, used or older than a minute; GET a new one")
	}
	given, err := hex.DecodeString(req.MAC)
	if err != nil || !hmac.Equal(given, req.mac(a.o.SharedSecret)) {
		return nil, matrixerr.Forbidden("The mac does not fit; check the shared secret")
	}
	l, err := a.accounts.CreateUser(ctx, account.NewUser{Username: req.Username, Password: req.Password,
		DisplayName: req.DisplayName, Admin: req.Admin, Device: &account.NewDevice{IP: r.ClientIP()}})
	if err != nil {
		return nil, err
	}
	return a.loginAnswer(l), nil
}
