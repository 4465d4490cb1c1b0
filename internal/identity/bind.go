package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"knock/internal/matrixerr"
)

// Binding is what a user shows to have an identity server publish an address of theirs: a session there in which the
// address was confirmed.
type Binding struct {
	SID          string `json:"sid"`
	ClientSecret string `json:"client_secret"`
	User         string `json:"mxid"`
}

// Bind has an identity server publish that an address is a user's, and returns the address. Errors are *matrixerr.Error
// for the user who asked, with what the identity server said.
func (c *Client) Bind(ctx context.Context, who Account, b Binding) (Address, error) {
	var bound struct {
		Address string `json:"address"`
		Medium  string `json:"medium"`
		User    string `json:"mxid"`
	}
	err := c.call(ctx, who, http.MethodPost, "3pid/bind", b, &bound)
	if err == nil && (bound.User != b.User || bound.Medium == "" || bound.Address == "" || len(bound.Medium)+len(bound.Address) > maxText) {
		err = errors.New("it bound something else")
	}
	if err != nil {
		return Address{}, pass(who.Server, err)
	}
	return Address{bound.Medium, bound.Address}.Canonical(), nil
}

// Unbind has an identity server forget that an address is a user's. done is false when it does not support that. Errors
// are as those of Bind.
func (c *Client) Unbind(ctx context.Context, server, user string, a Address) (done bool, err error) {
	err = c.unbind(ctx, server, user, a)
	var e *answer
	if errors.As(err, &e) && e.Code == "" {
		switch e.Status {
		case http.StatusBadRequest, http.StatusNotFound, http.StatusNotImplemented:
			return false, nil
		}
	}
	if err != nil {
		return false, pass(server, err)
	}
	return true, nil
}

func (c *Client) unbind(ctx context.Context, server, user string, a Address) error {
	const uri = "/_matrix/identity/v2/3pid/unbind"
	if !c.o.Allowed(server) {
		return errNotAllowed
	}
	content, authorization, err := c.o.Sign(http.MethodPost, uri, server, map[string]any{"mxid": user,
		"threepid": map[string]string{"medium": a.Medium, "address": a.Address}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+server+uri, bytes.NewReader(content))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", authorization)
	r.Header.Set("Content-Type", "application/json")
	return c.do(r, new(json.RawMessage))
}

// pass hands an identity server's own words to the user who asked, but for those that are about tokens: clients would
// take them to be about their token here.
func pass(server string, err error) error {
	var e *answer
	if errors.As(err, &e) && strings.HasPrefix(e.Code, "M_") && len(e.Code) <= maxText && len(e.Msg) <= maxText &&
		e.Status/100 == 4 && e.Status != http.StatusUnauthorized && e.Status != http.StatusForbidden {
		return matrixerr.New(e.Status, e.Code, e.Msg).With(err)
	}
	return explain(server, err)
}
