package account

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/test/shapes"
)

// node is this part of the door with a router in front.
type node struct {
	t        *testing.T
	router   http.Handler
	accounts *account.Service
	api      *API
	db       *sqldb.DB
	hub      *stream.Hub
}

func each(t *testing.T, o Options, fn func(t *testing.T, n *node)) {
	t.Helper()
	eachMade(t, func(*testing.T, *sqldb.DB) Options { return o }, fn)
}

// eachMade is each with options that need the database.
func eachMade(t *testing.T, options func(*testing.T, *sqldb.DB) Options, fn func(t *testing.T, n *node)) {
	t.Helper()
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		o := options(t, db)
		hub := stream.New(0)
		o.Accounts = account.New(account.Options{DB: db, Hub: hub, ServerName: "hs",
			AccessTokenLifetime: time.Hour, NoPasswords: o.SSO.NoPasswords()})
		api := New(o)
		fn(t, &node{t, shapes.Watched(t, httpx.NewRouter(api.Routes(), httpx.Hooks{Authenticate: o.Accounts.Caller})), o.Accounts, api, db, hub})
	})
}

type object = map[string]any

// call does a request and returns the status and the decoded answer.
func (n *node) call(token, method, path, body string) (int, object) {
	n.t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	rec := httptest.NewRecorder()
	n.router.ServeHTTP(rec, req)
	var out object
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil {
		n.t.Fatalf("%s %s: %d with %q", method, path, rec.Code, rec.Body)
	}
	return rec.Code, out
}

// expect is call with a check of the status and, where it is not empty, the error code.
func (n *node) expect(status int, code, token, method, path, body string) object {
	n.t.Helper()
	got, out := n.call(token, method, path, body)
	if errcode, _ := out["errcode"].(string); got != status || errcode != code {
		n.t.Fatalf("%s %s %s: %d %v, want %d %s", method, path, body, got, out, status, code)
	}
	return out
}

func (n *node) register(name string) (token string) {
	n.t.Helper()
	out := n.expect(200, "", "", "POST", v3+"/register",
		fmt.Sprintf(`{"username":%q,"password":"pass of %s","device_id":"D","auth":{"type":"m.login.dummy"}}`, name, name))
	return out["access_token"].(string)
}

var open = Options{Registration: Registration{Enabled: true}}

func TestRegister(t *testing.T) {
	each(t, open, func(t *testing.T, n *node) {
		const path = v3 + "/register"
		ask := n.expect(401, "", "", "POST", path, `{}`)
		if fmt.Sprint(ask["flows"]) != "[map[stages:[m.login.dummy]]]" || ask["params"] == nil {
			t.Errorf("challenge %v", ask)
		}
		body := fmt.Sprintf(`{"username":"Alice","password":"übers3kr1t","device_id":"xyzzy","initial_device_display_name":"d",
			"refresh_token":true,"auth":{"type":"m.login.dummy","session":%q}}`, ask["session"])
		l := n.expect(200, "", "", "POST", path, body)
		if l["user_id"] != "@alice:hs" || l["device_id"] != "xyzzy" || l["refresh_token"] == nil || l["expires_in_ms"] != 3.6e6 {
			t.Errorf("answer %v", l)
		}
		who := n.expect(200, "", l["access_token"].(string), "GET", v3+"/account/whoami", "")
		if who["user_id"] != "@alice:hs" || who["device_id"] != "xyzzy" || who["is_guest"] != false {
			t.Errorf("whoami %v", who)
		}
		n.expect(200, "", l["access_token"].(string), "GET", "/_matrix/client/r0/account/whoami", "")

		const dummy = `,"auth":{"type":"m.login.dummy"}}`
		n.expect(400, "M_USER_IN_USE", "", "POST", path, `{"username":"alice"}`)
		n.expect(400, "M_INVALID_USERNAME", "", "POST", path, `{"username":"a b"`+dummy)
		n.expect(400, "M_MISSING_PARAM", "", "POST", path, `{"username":"bob"`+dummy)
		n.expect(400, "M_WEAK_PASSWORD", "", "POST", path, `{"username":"bob","password":"short"`+dummy)
		n.expect(400, "M_NOT_JSON", "", "POST", path, `{`)
		n.expect(400, "M_BAD_JSON", "", "POST", path, `{"username":1}`)
		n.expect(400, "M_BAD_JSON", "", "POST", path, `{"auth":"dummy"}`)
		n.expect(401, "M_UNKNOWN", "", "POST", path, `{"auth":{"type":"m.login.password"}}`)
		n.expect(400, "M_INVALID_PARAM", "", "POST", path+"?kind=robot", `{}`)
		n.expect(403, "M_GUEST_ACCESS_FORBIDDEN", "", "POST", path+"?kind=guest", `{}`)
		quiet := n.expect(200, "", "", "POST", path, `{"inhibit_login":true,"password":"long enough"`+dummy)
		if quiet["access_token"] != nil || quiet["device_id"] != nil || quiet["user_id"] == nil {
			t.Errorf("inhibited login %v", quiet)
		}

		n.expect(200, "", "", "GET", path+"/available?username=free", "")
		n.expect(400, "M_USER_IN_USE", "", "GET", path+"/available?username=ALICE", "")
		n.expect(400, "M_INVALID_USERNAME", "", "GET", path+"/available?username=a,b", "")
		n.expect(400, "M_MISSING_PARAM", "", "GET", path+"/available", "")
		n.expect(404, "M_UNRECOGNIZED", "", "GET", "/_synapse/admin/v1/register", "")
	})
}

func TestRegisterWithToken(t *testing.T) {
	o := Options{Registration: Registration{Enabled: true, RequireToken: true, Guests: true}}
	each(t, o, func(t *testing.T, n *node) {
		one := int64(1)
		_, err := n.accounts.CreateRegistrationToken(t.Context(), account.RegistrationToken{Token: "once", UsesAllowed: &one})
		if err != nil {
			t.Fatal(err)
		}
		const path, validity = v3 + "/register", v1 + "/register/m.login.registration_token/validity?token="
		body := func(token string) string {
			return fmt.Sprintf(`{"username":"alice","password":"long enough","auth":{"type":"m.login.registration_token","token":%q}}`, token)
		}
		valid := func(want bool) {
			t.Helper()
			if out := n.expect(200, "", "", "GET", validity+"once", ""); out["valid"] != want {
				t.Errorf("valid: %v", out)
			}
		}
		n.expect(401, "M_FORBIDDEN", "", "POST", path, body("other"))
		n.expect(401, "M_UNKNOWN", "", "POST", path, `{"auth":{"type":"m.login.dummy"}}`)
		valid(true)
		short := strings.Replace(body("once"), "long enough", "short", 1)
		n.expect(400, "M_WEAK_PASSWORD", "", "POST", path, short)
		valid(false) // held by that session
		n.expect(401, "M_FORBIDDEN", "", "POST", path, body("once"))
		list, _ := n.accounts.RegistrationTokens(t.Context())
		if list[0].Pending != 1 || list[0].Completed != 0 {
			t.Errorf("list %+v", list)
		}
		n.expect(400, "M_MISSING_PARAM", "", "GET", validity, "")

		guest := n.expect(200, "", "", "POST", path+"?kind=guest", `{"username":"ignored","device_id":"ignored"}`)
		token, id := guest["access_token"].(string), guest["user_id"].(string)
		if who := n.expect(200, "", token, "GET", v3+"/account/whoami", ""); who["is_guest"] != true || who["device_id"] == "ignored" {
			t.Errorf("guest %v", who)
		}
		n.expect(403, "M_GUEST_ACCESS_FORBIDDEN", token, "GET", v3+"/account/3pid", "")
		n.expect(200, "", token, "PUT", v3+"/profile/"+id+"/displayname", `{"displayname":"G"}`)
		n.expect(403, "M_GUEST_ACCESS_FORBIDDEN", token, "PUT", v3+"/profile/"+id+"/avatar_url", `{"avatar_url":"mxc://hs/a"}`)
	})
}

func TestRegistrationTokenIsUsedUp(t *testing.T) {
	o := Options{Registration: Registration{Enabled: true, RequireToken: true}}
	each(t, o, func(t *testing.T, n *node) {
		two := int64(2)
		if _, err := n.accounts.CreateRegistrationToken(t.Context(), account.RegistrationToken{Token: "twice", UsesAllowed: &two}); err != nil {
			t.Fatal(err)
		}
		body := `{"password":"long enough","auth":{"type":"m.login.registration_token","token":"twice"}}`
		for range 2 {
			n.expect(200, "", "", "POST", v3+"/register", body)
		}
		n.expect(401, "M_FORBIDDEN", "", "POST", v3+"/register", body)
		if list, _ := n.accounts.RegistrationTokens(t.Context()); list[0].Completed != 2 || list[0].Pending != 0 {
			t.Errorf("list %+v", list)
		}
	})
}

func TestRegistrationClosed(t *testing.T) {
	each(t, Options{}, func(t *testing.T, n *node) {
		n.expect(403, "M_FORBIDDEN", "", "POST", v3+"/register", `{"auth":{"type":"m.login.dummy"}}`)
		n.expect(403, "M_FORBIDDEN", "", "GET", v3+"/register/available?username=a", "")
		n.expect(403, "M_FORBIDDEN", "", "GET", v1+"/register/m.login.registration_token/validity?token=a", "")
	})
}

func TestSharedSecret(t *testing.T) {
	each(t, Options{SharedSecret: "complement"}, func(t *testing.T, n *node) {
		const path = "/_synapse/admin/v1/register"
		body := func(secret, name, rights string, admin bool, extra string) string {
			nonce := n.expect(200, "", "", "GET", path, "")["nonce"].(string)
			h := hmac.New(sha1.New, []byte(secret))
			fmt.Fprintf(h, "%s\x00%s\x00%s\x00%s", nonce, name, "sUp3rs3kr1t", rights)
			if strings.Contains(extra, "user_type") {
				h.Write([]byte("\x00support"))
			}
			return fmt.Sprintf(`{"nonce":%q,"username":%q,"password":"sUp3rs3kr1t","admin":%v,"mac":%q%s}`,
				nonce, name, admin, hex.EncodeToString(h.Sum(nil)), extra)
		}
		good := body("complement", "Boss", "admin", true, `,"displayname":"The Boss"`)
		out := n.expect(200, "", "", "POST", path, good)
		if out["user_id"] != "@boss:hs" || out["home_server"] != "hs" || out["device_id"] == "" {
			t.Errorf("answer %v", out)
		}
		if u, err := n.accounts.User(t.Context(), "@boss:hs"); err != nil || !u.Admin {
			t.Errorf("user %+v %v", u, err)
		}
		if p := n.expect(200, "", "", "GET", v3+"/profile/@boss:hs", ""); p["displayname"] != "The Boss" {
			t.Errorf("profile %v", p)
		}
		n.expect(200, "", out["access_token"].(string), "GET", v3+"/account/whoami", "")
		n.expect(400, "M_UNKNOWN", "", "POST", path, good) // the nonce is used
		n.expect(200, "", "", "POST", path, body("complement", "typed", "notadmin", false, `,"user_type":"support"`))
		n.expect(403, "M_FORBIDDEN", "", "POST", path, body("wrong", "a", "notadmin", false, ""))
		n.expect(403, "M_FORBIDDEN", "", "POST", path, body("complement", "a", "notadmin", true, ""))
		n.expect(400, "M_INVALID_USERNAME", "", "POST", path, body("complement", "us,er", "notadmin", false, ""))
		n.expect(400, "M_USER_IN_USE", "", "POST", path, body("complement", "boss", "notadmin", false, ""))
		n.expect(400, "M_MISSING_PARAM", "", "POST", path, `{"nonce":"x"}`)
	})
}

func TestLoginAndLogout(t *testing.T) {
	o := open
	o.BaseURL = "https://hs.example/"
	each(t, o, func(t *testing.T, n *node) {
		const path = v3 + "/login"
		first := n.register("alice")
		flows := n.expect(200, "", "", "GET", path, "")
		if fmt.Sprint(flows["flows"]) != "[map[type:m.login.password] map[get_login_token:true type:m.login.token]]" {
			t.Errorf("flows %v", flows)
		}
		n.expect(404, "M_UNRECOGNIZED", "", "GET", v1+"/auth_metadata", "")
		for _, c := range []struct {
			status     int
			code, body string
		}{
			{200, "", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"@alice:hs"},"password":"pass of alice"}`},
			{200, "", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"pass of alice"}`},
			{200, "", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"@ALICE:hs"},"password":"pass of alice"}`},
			{200, "", `{"type":"m.login.password","user":"alice","password":"pass of alice"}`},
			{403, "M_FORBIDDEN", `{"type":"m.login.password","user":"alice","password":"wrong"}`},
			{403, "M_FORBIDDEN", `{"type":"m.login.password","user":"nobody","password":"pass of alice"}`},
			{403, "M_FORBIDDEN", `{"type":"m.login.password","user":"@alice:elsewhere","password":"pass of alice"}`},
			{403, "M_FORBIDDEN", `{"type":"m.login.password","identifier":{"type":"m.id.thirdparty","medium":"email","address":"a@b"},"password":"x"}`},
			{403, "M_FORBIDDEN", `{"type":"m.login.password","medium":"email","address":"a@b","password":"x"}`},
			{400, "M_UNKNOWN", `{"type":"m.login.password","identifier":{"type":"x"},"password":"x"}`},
			{400, "M_MISSING_PARAM", `{"type":"m.login.password","password":"x"}`},
			{403, "M_FORBIDDEN", `{"type":"m.login.token","token":"x"}`},
			{400, "M_MISSING_PARAM", `{"type":"m.login.token"}`},
			{400, "M_UNKNOWN", `{"type":"m.login.dance","token":"x"}`},
			{400, "M_MISSING_PARAM", `{"user":"alice"}`},
			{400, "M_BAD_JSON", `{"type":"m.login.password","identifier":"alice"}`},
			{400, "M_BAD_JSON", `[]`},
			{400, "M_NOT_JSON", ``},
		} {
			n.expect(c.status, c.code, "", "POST", path, c.body)
		}
		l := n.expect(200, "", "", "POST", path,
			`{"type":"m.login.password","user":"alice","password":"pass of alice","device_id":"PHONE","refresh_token":true}`)
		if fmt.Sprint(l["well_known"]) != "map[m.homeserver:map[base_url:https://hs.example/]]" || l["device_id"] != "PHONE" {
			t.Errorf("login %v", l)
		}
		r := n.expect(200, "", "", "POST", v3+"/refresh", fmt.Sprintf(`{"refresh_token":%q}`, l["refresh_token"]))
		token := r["access_token"].(string)
		n.expect(200, "", token, "GET", v3+"/account/whoami", "")
		n.expect(401, "M_UNKNOWN_TOKEN", l["access_token"].(string), "GET", v3+"/account/whoami", "")
		n.expect(401, "M_UNKNOWN_TOKEN", "", "POST", v3+"/refresh", fmt.Sprintf(`{"refresh_token":%q}`, l["refresh_token"]))
		n.expect(400, "M_MISSING_PARAM", "", "POST", v3+"/refresh", `{}`)

		n.expect(200, "", token, "POST", v3+"/logout", "")
		n.expect(401, "M_UNKNOWN_TOKEN", token, "POST", v3+"/logout", "")
		n.expect(401, "M_MISSING_TOKEN", "", "POST", v3+"/logout", "")
		n.expect(404, "M_NOT_FOUND", first, "GET", v3+"/devices/PHONE", "")
		n.expect(200, "", first, "POST", v3+"/logout/all", "{}")
		n.expect(401, "M_UNKNOWN_TOKEN", first, "GET", v3+"/account/whoami", "")
	})
}

// password is the auth dictionary of the password stage.
func password(user, pass string) string {
	return fmt.Sprintf(`{"type":"m.login.password","identifier":{"type":"m.id.user","user":%q},"password":%q}`, user, pass)
}

func (n *node) device(id string) (token string) {
	n.t.Helper()
	return n.expect(200, "", "", "POST", v3+"/login", fmt.Sprintf(
		`{"type":"m.login.password","user":"alice","password":"pass of alice","device_id":%q}`, id))["access_token"].(string)
}

func TestDevices(t *testing.T) {
	each(t, open, func(t *testing.T, n *node) {
		token := n.register("alice")
		n.register("bob")
		phone := n.device("PHONE")
		n.device("TABLET")
		n.device("a/b")
		if out := n.expect(200, "", token, "GET", v3+"/devices", ""); len(out["devices"].([]any)) != 4 {
			t.Errorf("devices %v", out)
		}
		const path = v3 + "/devices/PHONE"
		n.expect(200, "", token, "PUT", path, `{"display_name":"new"}`)
		n.expect(200, "", token, "PUT", path, `{}`)
		n.expect(404, "M_NOT_FOUND", token, "PUT", v3+"/devices/X", `{"display_name":"new"}`)
		n.expect(404, "M_NOT_FOUND", token, "PUT", v3+"/devices/X", `{}`)
		if d := n.expect(200, "", token, "GET", path, ""); d["display_name"] != "new" || d["last_seen_ts"] == nil {
			t.Errorf("device %v", d)
		}
		ask := n.expect(401, "", token, "DELETE", path, "")
		if ask["session"] == nil || ask["flows"] == nil || ask["params"] == nil {
			t.Errorf("challenge %v", ask)
		}
		wrong := n.expect(401, "M_FORBIDDEN", token, "DELETE", path, `{"auth":`+password("@alice:hs", "wrong")+`}`)
		if wrong["session"] == nil || wrong["error"] == nil {
			t.Errorf("refusal %v", wrong)
		}
		n.expect(403, "M_FORBIDDEN", token, "DELETE", path, `{"auth":`+password("@bob:hs", "pass of bob")+`}`)
		n.expect(400, "M_BAD_JSON", token, "DELETE", path, `{"auth":{"type":"m.login.password","password":1}}`)
		// A session begun for one device is not good for another.
		auth := strings.Replace(password("alice", "pass of alice"), "{", fmt.Sprintf(`{"session":%q,`, ask["session"]), 1)
		n.expect(401, "M_UNKNOWN", token, "DELETE", v3+"/devices/TABLET", `{"auth":`+auth+`}`)
		n.expect(200, "", phone, "GET", v3+"/account/whoami", "")
		n.expect(200, "", token, "DELETE", path, `{"auth":`+auth+`}`)
		n.expect(401, "M_UNKNOWN_TOKEN", phone, "GET", v3+"/account/whoami", "")
		n.expect(404, "M_NOT_FOUND", token, "GET", path, "")
		n.expect(200, "", token, "GET", v3+"/devices/a%2Fb", "")

		good := password("@alice:hs", "pass of alice")
		n.expect(400, "M_MISSING_PARAM", token, "POST", v3+"/delete_devices", `{"auth":`+good+`}`)
		n.expect(401, "", token, "POST", v3+"/delete_devices", `{"devices":["TABLET","a/b"]}`)
		n.expect(200, "", token, "POST", v3+"/delete_devices", `{"devices":["TABLET","a/b","unknown"],"auth":`+good+`}`)
		n.expect(200, "", token, "POST", v3+"/delete_devices", `{"devices":[],"auth":`+good+`}`)
		if out := n.expect(200, "", token, "GET", v3+"/devices", ""); len(out["devices"].([]any)) != 1 {
			t.Errorf("devices %v", out)
		}
	})
}

func TestPasswordAndDeactivation(t *testing.T) {
	each(t, open, func(t *testing.T, n *node) {
		token := n.register("alice")
		other := n.device("OTHER")
		const path, end = v3 + "/account/password", v3 + "/account/deactivate"
		auth := func(pass string) string { return `,"auth":` + password("@alice:hs", pass) + `}` }
		n.expect(401, "", token, "POST", path, `{"new_password":"new password"}`)
		n.expect(401, "M_FORBIDDEN", token, "POST", path, `{"new_password":"new password"`+auth("wrong"))
		n.expect(400, "M_WEAK_PASSWORD", token, "POST", path, `{"new_password":"short"`+auth("pass of alice"))
		n.expect(400, "M_MISSING_PARAM", token, "POST", path, `{"x":1`+auth("pass of alice"))
		n.expect(200, "", token, "POST", path, `{"new_password":"new password","logout_devices":false`+auth("pass of alice"))
		n.expect(200, "", other, "GET", v3+"/account/whoami", "")
		n.expect(200, "", token, "POST", path, `{"new_password":"newer password"`+auth("new password"))
		n.expect(401, "M_UNKNOWN_TOKEN", other, "GET", v3+"/account/whoami", "")
		n.expect(200, "", token, "GET", v3+"/account/whoami", "")
		if out := n.expect(200, "", token, "GET", v3+"/account/3pid", ""); out["threepids"] == nil {
			t.Errorf("3pids %v", out)
		}
		n.expect(401, "", token, "POST", end, "")
		n.expect(401, "M_FORBIDDEN", token, "POST", end, `{"erase":false`+auth("wrong"))
		out := n.expect(200, "", token, "POST", end, `{"erase":false`+auth("newer password"))
		if out["id_server_unbind_result"] != "success" {
			t.Errorf("answer %v", out)
		}
		n.expect(401, "M_UNKNOWN_TOKEN", token, "GET", v3+"/account/whoami", "")
		n.expect(403, "M_USER_DEACTIVATED", "", "POST", v3+"/login", `{"type":"m.login.password","user":"alice","password":"newer password"}`)
	})
}

// elsewhere answers for other servers and counts.
type elsewhere struct{ calls int }

func (e *elsewhere) Profile(_ context.Context, server, userID, field string) (map[string]json.RawMessage, error) {
	e.calls++
	switch server {
	case "down":
		return nil, errors.New("no route to host")
	case "private":
		return nil, matrixerr.Forbidden("no")
	case "large":
		return map[string]json.RawMessage{"a.b": bytes.Repeat([]byte("1"), maxRemoteProfile)}, nil
	}
	return map[string]json.RawMessage{"displayname": json.RawMessage(`"` + userID + field + `"`)}, nil
}

func TestProfile(t *testing.T) {
	o, remote := open, &elsewhere{}
	o.Remote = remote
	each(t, o, func(t *testing.T, n *node) {
		token := n.register("alice")
		const me = v3 + "/profile/@alice:hs"
		if p := n.expect(200, "", "", "GET", me, ""); len(p) != 1 || p["displayname"] != "alice" {
			t.Errorf("profile %v", p)
		}
		n.expect(200, "", token, "DELETE", me+"/displayname", "")
		n.expect(404, "M_NOT_FOUND", "", "GET", me+"/displayname", "")
		n.expect(200, "", token, "PUT", me+"/displayname", `{"displayname":"A"}`)
		n.expect(200, "", token, "PUT", me+"/avatar_url", `{"avatar_url":"mxc://hs/a"}`)
		n.expect(200, "", token, "PUT", me+"/com.example.x", `{"com.example.x":{"y":null}}`)
		if f := n.expect(200, "", "", "GET", me+"/displayname", ""); len(f) != 1 || f["displayname"] != "A" {
			t.Errorf("field %v", f)
		}
		n.expect(400, "M_MISSING_PARAM", token, "PUT", me+"/displayname", `{"other":1}`)
		n.expect(400, "M_BAD_JSON", token, "PUT", me+"/displayname", `{"displayname":null}`)
		n.expect(400, "M_NOT_JSON", token, "PUT", me+"/displayname", `{`)
		n.expect(400, "M_INVALID_PARAM", token, "PUT", me+"/UPPER", `{"UPPER":1}`)
		n.expect(400, "M_KEY_TOO_LARGE", token, "PUT", me+"/a."+strings.Repeat("a", 254), `{}`)
		n.expect(400, "M_PROFILE_TOO_LARGE", token, "PUT", me+"/a.b", `{"a.b":"`+strings.Repeat("x", 64<<10)+`"}`)
		n.expect(403, "M_FORBIDDEN", token, "PUT", v3+"/profile/@bob:hs/displayname", `{"displayname":"A"}`)
		n.expect(403, "M_FORBIDDEN", token, "DELETE", v3+"/profile/@bob:hs/displayname", ``)
		n.expect(401, "M_MISSING_TOKEN", "", "PUT", me+"/displayname", `{"displayname":"A"}`)
		n.expect(200, "", token, "DELETE", me+"/com.example.x", "")
		n.expect(200, "", token, "DELETE", me+"/com.example.x", "")
		if p := n.expect(200, "", "", "GET", me, ""); len(p) != 2 {
			t.Errorf("profile %v", p)
		}
		n.expect(404, "M_NOT_FOUND", "", "GET", v3+"/profile/@nobody:hs", "")
		n.expect(400, "M_INVALID_PARAM", "", "GET", v3+"/profile/alice", "")

		remote.calls = 0
		for range 3 {
			p := n.expect(200, "", "", "GET", v3+"/profile/@r:other/displayname", "")
			if p["displayname"] != "@r:otherdisplayname" {
				t.Errorf("remote %v", p)
			}
			n.expect(502, "M_UNKNOWN", "", "GET", v3+"/profile/@r:down", "")
		}
		n.expect(404, "M_NOT_FOUND", "", "GET", v3+"/profile/@r:other/m.tz", "")
		n.expect(403, "M_FORBIDDEN", "", "GET", v3+"/profile/@r:private", "")
		n.expect(502, "M_UNKNOWN", "", "GET", v3+"/profile/@r:large", "")
		if remote.calls != 5 {
			t.Errorf("%d calls to other servers", remote.calls)
		}
	})
}

func TestAccountDataAndTags(t *testing.T) {
	o := open
	o.PushRules = func(_ context.Context, user string) (json.RawMessage, error) {
		return json.RawMessage(fmt.Sprintf(`{"global":{"of":%q}}`, user)), nil
	}
	each(t, o, func(t *testing.T, n *node) {
		token := n.register("alice")
		const me, bob, room = v3 + "/user/@alice:hs", v3 + "/user/@bob:hs", "/rooms/!r:hs"
		for _, where := range []string{"", room} {
			n.expect(200, "", token, "PUT", me+where+"/account_data/x.y", `{"v":1}`)
			if d := n.expect(200, "", token, "GET", me+where+"/account_data/x.y", ""); d["v"] != 1.0 {
				t.Errorf("data %v", d)
			}
			n.expect(404, "M_NOT_FOUND", token, "GET", me+where+"/account_data/x.z", "")
			n.expect(200, "", token, "PUT", me+where+"/account_data/x.empty", `{"v":1}`)
			n.expect(200, "", token, "PUT", me+where+"/account_data/x.empty", "{ \n}")
			n.expect(404, "M_NOT_FOUND", token, "GET", me+where+"/account_data/x.empty", "")
			n.expect(403, "M_FORBIDDEN", token, "PUT", bob+where+"/account_data/x.y", `{}`)
			n.expect(403, "M_FORBIDDEN", token, "GET", bob+where+"/account_data/x.y", ``)
			n.expect(400, "M_NOT_JSON", token, "PUT", me+where+"/account_data/x.y", `x`)
			n.expect(400, "M_BAD_JSON", token, "PUT", me+where+"/account_data/x.y", `[]`)
			n.expect(405, "M_BAD_JSON", token, "PUT", me+where+"/account_data/m.fully_read", `{}`)
			n.expect(405, "M_BAD_JSON", token, "PUT", me+where+"/account_data/m.push_rules", `{}`)
			unstable := strings.Replace(me, "/v3", "/unstable/org.matrix.msc3391", 1) + where + "/account_data/"
			n.expect(405, "M_BAD_JSON", token, "DELETE", unstable+"m.push_rules", "")
			n.expect(200, "", token, "DELETE", unstable+"x.y", "")
			n.expect(404, "M_NOT_FOUND", token, "GET", me+where+"/account_data/x.y", "")
		}
		if d := n.expect(200, "", token, "GET", me+"/account_data/m.push_rules", ""); fmt.Sprint(d["global"]) != "map[of:@alice:hs]" {
			t.Errorf("push rules %v", d)
		}
		n.expect(400, "M_INVALID_PARAM", token, "PUT", me+"/rooms/@r:hs/account_data/x", `{}`)
		n.expect(400, "M_INVALID_PARAM", token, "GET", me+"/rooms/r/account_data/x", ``)
		n.expect(413, "M_TOO_LARGE", token, "PUT", me+"/account_data/x", `{"v":"`+strings.Repeat("x", maxAccountData)+`"}`)

		n.expect(200, "", token, "PUT", me+room+"/tags/m.favourite", `{"order":0.25,"x":1}`)
		n.expect(200, "", token, "PUT", me+room+"/tags/u.a%2Fb", `{}`)
		n.expect(400, "M_BAD_JSON", token, "PUT", me+room+"/tags/u.c", `{"order":"first"}`)
		n.expect(403, "M_FORBIDDEN", token, "PUT", bob+room+"/tags/u.c", `{}`)
		n.expect(400, "M_INVALID_PARAM", token, "GET", me+"/rooms/x/tags", ``)
		out := n.expect(200, "", token, "GET", me+room+"/tags", "")
		if fmt.Sprint(out["tags"]) != "map[m.favourite:map[order:0.25 x:1] u.a/b:map[]]" {
			t.Errorf("tags %v", out)
		}
		if d := n.expect(200, "", token, "GET", me+room+"/account_data/m.tag", ""); fmt.Sprint(d) != fmt.Sprint(out) {
			t.Errorf("m.tag %v", d)
		}
		n.expect(200, "", token, "DELETE", me+room+"/tags/u.a%2Fb", "")
		if out := n.expect(200, "", token, "GET", me+room+"/tags", ""); len(out["tags"].(object)) != 1 {
			t.Errorf("tags %v", out)
		}
	})
}

func TestOpenID(t *testing.T) {
	each(t, open, func(t *testing.T, n *node) {
		token := n.register("alice")
		out := n.expect(200, "", token, "POST", v3+"/user/@alice:hs/openid/request_token", `{}`)
		if out["token_type"] != "Bearer" || out["matrix_server_name"] != "hs" || out["expires_in"] != 3600.0 {
			t.Errorf("token %v", out)
		}
		if who, err := n.accounts.OpenIDUser(t.Context(), out["access_token"].(string)); who != "@alice:hs" || err != nil {
			t.Errorf("user %q %v", who, err)
		}
		n.expect(401, "M_UNKNOWN_TOKEN", out["access_token"].(string), "GET", v3+"/account/whoami", "")
		n.expect(403, "M_FORBIDDEN", token, "POST", v3+"/user/@bob:hs/openid/request_token", `{}`)
	})
}

func TestEveryRouteNamesItsSpec(t *testing.T) {
	for _, r := range New(Options{SharedSecret: "s"}).Routes() {
		if r.Spec == "" || r.Handler == nil || r.Auth == httpx.AuthNone && r.Limit == "" && r.Path != v3+"/login" {
			t.Errorf("%s %s is incomplete", r.Method, r.Path)
		}
		if r.Method != http.MethodGet && strings.Contains(r.Path, "password") && r.Limit == "" {
			t.Errorf("%s takes passwords without a limit", r.Path)
		}
	}
}

func TestNoncesAreBounded(t *testing.T) {
	now := time.UnixMilli(0)
	n := newNonces(func() time.Time { return now })
	first, _ := n.give()
	for range maxNonces - 1 {
		if _, err := n.give(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.give(); matrixerr.From(err).Code != "M_LIMIT_EXCEEDED" {
		t.Errorf("one too many: %v", err)
	}
	now = now.Add(nonceLifetime)
	if n.use(first) {
		t.Error("an old nonce is good")
	}
	if second, err := n.give(); err != nil || !n.use(second) || n.use(second) {
		t.Errorf("a new nonce: %v", err)
	}
}
