// Package identity owns the calls to identity servers, which know whose an e-mail address is (Identity Service API).
// Users choose the server and bring the token for it, so nothing here is trusted.
package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/text/cases"

	"knock/internal/matrixerr"
)

// Bounds of one call.
const (
	timeout   = 20 * time.Second
	maxAnswer = 64 << 10
	maxKeys   = 8
	maxText   = 255  // of a token, a key, a name
	maxURL    = 1024 // of a validity URL
)

// Options configure a Client.
type Options struct {
	// HTTP makes the requests. It must refuse private addresses and follow no redirects: strangers choose the address.
	HTTP *http.Client
	// Allowed reports whether an identity server may be used; nil: all.
	Allowed func(server string) bool
	// Sign makes a request's body and its Authorization header, with which this homeserver signs it (Server-Server API,
	// "Request Authentication"). Unbind alone needs it.
	Sign func(method, uri, destination string, content any) (body []byte, authorization string, err error)
}

// Client calls identity servers. It is safe for concurrent use.
type Client struct{ o Options }

// New makes a client.
func New(o Options) *Client {
	if o.Allowed == nil {
		o.Allowed = func(string) bool { return true }
	}
	return &Client{o}
}

// Account is who asks which identity server.
type Account struct {
	Server string // host name and perhaps port
	Token  string // the asker's access token there
}

// Address is a third-party identifier.
type Address struct{ Medium, Address string }

// Canonical is the address in the only form that counts (Appendices, "3PID Types").
func (a Address) Canonical() Address {
	if a.Medium == "email" {
		a.Address = cases.Fold().String(a.Address)
	}
	return a
}

// Lookup returns the user to whom an address is bound, "" for none. What it returns may be no user id at all. Errors are
// *matrixerr.Error for the user who asked.
func (c *Client) Lookup(ctx context.Context, who Account, a Address) (user string, err error) {
	user, err = c.lookup(ctx, who, a)
	var e *answer
	if errors.As(err, &e) && e.Code == "M_INVALID_PEPPER" { // changed between the two calls
		user, err = c.lookup(ctx, who, a)
	}
	return user, explain(who.Server, err)
}

func (c *Client) lookup(ctx context.Context, who Account, a Address) (string, error) {
	var details struct {
		Pepper     string   `json:"lookup_pepper"`
		Algorithms []string `json:"algorithms"`
	}
	if err := c.call(ctx, who, http.MethodGet, "hash_details", nil, &details); err != nil {
		return "", err
	}
	algorithm, query := "sha256", a.Address+" "+a.Medium
	if !slices.Contains(details.Algorithms, algorithm) && slices.Contains(details.Algorithms, "none") {
		algorithm = "none"
	} else {
		sum := sha256.Sum256([]byte(query + " " + details.Pepper))
		query = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	var found struct {
		Mappings map[string]string `json:"mappings"`
	}
	err := c.call(ctx, who, http.MethodPost, "lookup", map[string]any{"algorithm": algorithm, "pepper": details.Pepper, "addresses": []string{query}}, &found)
	return found.Mappings[query], err
}

// Invite is what the identity server writes to an address that nobody has yet. Empty fields are left out.
type Invite struct {
	Medium       string `json:"medium"`
	Address      string `json:"address"`
	RoomID       string `json:"room_id"`
	Sender       string `json:"sender"`
	RoomAlias    string `json:"room_alias,omitempty"`
	RoomAvatar   string `json:"room_avatar_url,omitempty"`
	JoinRule     string `json:"room_join_rules,omitempty"`
	RoomName     string `json:"room_name,omitempty"`
	RoomType     string `json:"room_type,omitempty"`
	SenderName   string `json:"sender_display_name,omitempty"`
	SenderAvatar string `json:"sender_avatar_url,omitempty"`
}

// Key is a public key that may sign for an invite, and where to ask whether it still may.
type Key struct {
	PublicKey   string `json:"public_key"`
	ValidityURL string `json:"key_validity_url,omitempty"`
}

// Stored is an invite that the identity server keeps for whoever proves to have the address.
type Stored struct {
	Token       string `json:"token"`
	PublicKeys  []Key  `json:"public_keys"`
	DisplayName string `json:"display_name"`
	// BoundTo is the user to whom the address was bound meanwhile; the rest is empty then.
	BoundTo string `json:"-"`
}

// Store has an identity server keep an invite. Errors are *matrixerr.Error for the user who asked.
func (c *Client) Store(ctx context.Context, who Account, i Invite) (*Stored, error) {
	var s Stored
	err := c.call(ctx, who, http.MethodPost, "store-invite", i, &s)
	var e *answer
	if errors.As(err, &e) && e.Code == "M_THREEPID_IN_USE" && e.User != "" {
		return &Stored{BoundTo: e.User}, nil
	}
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return nil, explain(who.Server, err)
	}
	return &s, nil
}

func (s *Stored) check() error {
	switch {
	case s.Token == "" || len(s.Token) > maxText || len(s.DisplayName) > maxText:
		return errors.New("the stored invite has no good token or name")
	case len(s.PublicKeys) == 0 || len(s.PublicKeys) > maxKeys:
		return errors.New("the stored invite has no key, or too many")
	}
	for _, k := range s.PublicKeys {
		if k.PublicKey == "" || len(k.PublicKey) > maxText || len(k.ValidityURL) > maxURL {
			return errors.New("a key of the stored invite is empty or too long")
		}
	}
	return nil
}

// KeyValid asks at a URL of an m.room.third_party_invite whether a key may still sign for it.
func (c *Client) KeyValid(ctx context.Context, validityURL, publicKey string) (bool, error) {
	u, err := url.Parse(validityURL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return false, nil // nobody can ask there
	}
	query := u.Query()
	query.Set("public_key", publicKey)
	u.RawQuery = query.Encode()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return false, err
	}
	var verdict struct {
		Valid bool `json:"valid"`
	}
	err = c.do(r, &verdict)
	var e *answer
	if errors.As(err, &e) && e.Status == http.StatusNotFound {
		return false, nil
	}
	return verdict.Valid, err
}

// answer is an error that an identity server sent.
type answer struct {
	Status int    `json:"-"`
	Code   string `json:"errcode"`
	Msg    string `json:"error"`
	User   string `json:"mxid"`
}

func (e *answer) Error() string { return fmt.Sprintf("it answered %d %.60q", e.Status, e.Code) }

var errNotAllowed = errors.New("the identity server may not be used")

func (c *Client) call(ctx context.Context, who Account, method, path string, body, out any) error {
	if !c.o.Allowed(who.Server) {
		return errNotAllowed
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(ctx, method, "https://"+who.Server+"/_matrix/identity/v2/"+path, content)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+who.Token)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return c.do(r, out)
}

func (c *Client) do(r *http.Request, out any) error {
	resp, err := c.o.HTTP.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return err
	case len(raw) > maxAnswer:
		return errors.New("its answer is too large")
	case resp.StatusCode != http.StatusOK:
		e := &answer{}
		_ = json.Unmarshal(raw, e) // what is no error object is known by its status
		e.Status = resp.StatusCode
		return e
	}
	return json.Unmarshal(raw, out)
}

// explain makes an error one for the user who asked.
func explain(server string, err error) error {
	if err == nil {
		return nil
	}
	var e *answer
	known := errors.As(err, &e)
	switch {
	case errors.Is(err, errNotAllowed):
		return matrixerr.New(http.StatusForbidden, "M_SERVER_NOT_TRUSTED", "This server does not work with the identity server "+server+"; choose another").With(err)
	case known && e.Code == "M_TERMS_NOT_SIGNED":
		return matrixerr.New(http.StatusForbidden, e.Code, "Accept the terms of the identity server first").With(err)
	case known && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden):
		return matrixerr.Forbidden("The identity server refused; id_access_token may have ended, get a new one").With(err)
	case known && e.Code == "M_UNRECOGNIZED":
		return matrixerr.New(http.StatusForbidden, "M_THREEPID_DENIED", "The identity server does not take invites to this kind of address").With(err)
	}
	return matrixerr.Unknown(http.StatusBadGateway, "The identity server "+strings.ToValidUTF8(server, "")+" could not be asked; try again later").With(err)
}
