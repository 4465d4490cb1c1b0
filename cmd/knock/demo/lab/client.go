package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxAnswer bounds what a client reads of one answer.
const maxAnswer = 64 << 20

// Client is a user's device, or nobody's before Register or Login.
type Client struct {
	BaseURL                           string // without a slash at its end
	UserID, DeviceID, Token, Password string
	HTTP                              *http.Client

	txn  atomic.Int64
	mu   sync.Mutex // held by a sync
	view View
}

// NewClient talks to the node at baseURL. Close ends its connections.
func NewClient(baseURL string) *Client {
	return &Client{BaseURL: baseURL, HTTP: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}, Timeout: 2 * time.Minute}}
}

// Close ends idle connections.
func (c *Client) Close() { c.HTTP.CloseIdleConnections() }

// Error is an answer other than 200.
type Error struct {
	Status int
	Code   string `json:"errcode"`
	Msg    string `json:"error"`
	Body   []byte `json:"-"`
}

func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Msg) }

// V3 joins escaped parts to a path of the Client-Server API.
func V3(parts ...string) string {
	var b strings.Builder
	b.WriteString("/_matrix/client/v3")
	for _, p := range parts {
		b.WriteString("/" + url.PathEscape(p))
	}
	return b.String()
}

// Call sends body as JSON (nil: no body) and decodes the answer into out (nil: not at all).
func (c *Client) Call(ctx context.Context, method, path string, body, out any) error {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(data)
	}
	answer, _, err := c.do(ctx, method, path, "application/json", reader)
	if err == nil && out != nil {
		err = json.Unmarshal(answer, out)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, strings.SplitN(path, "?", 2)[0], err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path, contentType string, body io.Reader) ([]byte, http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.BaseURL+path, body)
	if err != nil {
		return nil, nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", contentType)
	}
	if c.Token != "" {
		r.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if method == http.MethodPut { // not sent: lets the transport repeat it on a fresh connection after a node's restart
		r.Header["X-Idempotency-Key"] = []string{}
	}
	resp, err := c.HTTP.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil || resp.StatusCode == http.StatusOK {
		return answer, resp.Header, err
	}
	e := &Error{Status: resp.StatusCode, Body: answer}
	_ = json.Unmarshal(answer, e) // what is no error object is shown by its status
	e.Status = resp.StatusCode
	return nil, nil, e
}

type login struct {
	UserID   string `json:"user_id"`
	DeviceID string `json:"device_id"`
	Token    string `json:"access_token"`
}

func (c *Client) take(l login, password string) {
	c.UserID, c.DeviceID, c.Token, c.Password = l.UserID, l.DeviceID, l.Token, password
}

// Register makes an account on a node where registration is open.
func (c *Client) Register(ctx context.Context, name, password string) error {
	var l login
	err := c.Call(ctx, http.MethodPost, V3("register"), map[string]any{"username": name, "password": password,
		"auth": map[string]string{"type": "m.login.dummy"}}, &l)
	if err == nil {
		c.take(l, password)
	}
	return err
}

// Login makes a new device.
func (c *Client) Login(ctx context.Context, user, password string) error {
	var l login
	err := c.Call(ctx, http.MethodPost, V3("login"), map[string]any{"type": "m.login.password", "password": password,
		"identifier": map[string]string{"type": "m.id.user", "user": user}}, &l)
	if err == nil {
		c.take(l, password)
	}
	return err
}

// CreateRoom answers the room's id.
func (c *Client) CreateRoom(ctx context.Context, request any) (string, error) {
	var made struct {
		RoomID string `json:"room_id"`
	}
	err := c.Call(ctx, http.MethodPost, V3("createRoom"), request, &made)
	return made.RoomID, err
}

// Join enters a room by id or alias, with the help of servers when it is not known here, and answers its id.
func (c *Client) Join(ctx context.Context, room string, via ...string) (string, error) {
	var joined struct {
		RoomID string `json:"room_id"`
	}
	query := url.Values{"via": via, "server_name": via}
	err := c.Call(ctx, http.MethodPost, V3("join", room)+"?"+query.Encode(), struct{}{}, &joined)
	return joined.RoomID, err
}

// Act does what a path below a room is for: invite, kick, leave, ….
func (c *Client) Act(ctx context.Context, room, action string, body any) error {
	return c.Call(ctx, http.MethodPost, V3("rooms", room, action), body, nil)
}

type sent struct {
	EventID string `json:"event_id"`
}

// Send sends an event and answers its id.
func (c *Client) Send(ctx context.Context, room, eventType string, content any) (string, error) {
	var s sent
	txn := strconv.FormatInt(c.txn.Add(1), 10)
	err := c.Call(ctx, http.MethodPut, V3("rooms", room, "send", eventType, "lab"+txn), content, &s)
	return s.EventID, err
}

// Say sends a text message.
func (c *Client) Say(ctx context.Context, room, text string) (string, error) {
	return c.Send(ctx, room, "m.room.message", map[string]string{"msgtype": "m.text", "body": text})
}

// SetState sends a state event.
func (c *Client) SetState(ctx context.Context, room, eventType, key string, content any) (string, error) {
	var s sent
	err := c.Call(ctx, http.MethodPut, V3("rooms", room, "state", eventType, key), content, &s)
	return s.EventID, err
}

// Upload stores a file and answers its mxc: URI.
func (c *Client) Upload(ctx context.Context, name, contentType string, data []byte) (string, error) {
	answer, _, err := c.do(ctx, http.MethodPost, "/_matrix/media/v3/upload?filename="+url.QueryEscape(name), contentType, bytes.NewReader(data))
	if err != nil {
		return "", fmt.Errorf("upload: %w", err)
	}
	var stored struct {
		URI string `json:"content_uri"`
	}
	return stored.URI, json.Unmarshal(answer, &stored)
}

// Download fetches the file behind an mxc: URI through the user's own node, with its type.
func (c *Client) Download(ctx context.Context, uri string) (data []byte, contentType string, err error) {
	data, header, err := c.do(ctx, http.MethodGet, "/_matrix/client/v1/media/download/"+strings.TrimPrefix(uri, "mxc://"), "", nil)
	if err != nil {
		return nil, "", fmt.Errorf("download: %w", err)
	}
	return data, header.Get("Content-Type"), nil
}

// State is the current state of a room as the server tells it.
func (c *Client) State(ctx context.Context, room string) (events []Event, err error) {
	err = c.Call(ctx, http.MethodGet, V3("rooms", room, "state"), nil, &events)
	return events, err
}
