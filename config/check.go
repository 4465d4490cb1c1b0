package config

import (
	"fmt"
	"maps"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"knock/internal/obs"
)

// checkText checks a string by the tags of its field; "" is good.
func checkText(s string, tag reflect.StructTag) string {
	if enum := tag.Get("enum"); enum != "" && !slices.Contains(strings.Split(enum, ","), s) {
		return "use one of " + strings.ReplaceAll(enum, ",", ", ")
	}
	switch tag.Get("check") {
	case "address":
		return checkAddress(s)
	case "name":
		if s != "" && !ValidServerName(strings.TrimPrefix(s, "*.")) {
			return "write a server name, such as example.org or example.org:8448"
		}
	}
	return ""
}

func checkAddress(s string) string {
	if s == "" {
		return ""
	}
	_, port, err := net.SplitHostPort(s)
	if _, convErr := strconv.ParseUint(port, 10, 16); err != nil || convErr != nil {
		return "write host:port, such as localhost:8008 or :8448"
	}
	return ""
}

// reason puts a parser's error in words that help.
func reason(target any, err error) string {
	if _, ok := target.(*netip.Prefix); ok {
		return "write a network, such as 10.0.0.0/8 or 127.0.0.1/32"
	}
	return err.Error()
}

// check finds what single values cannot show.
func (c *Config) check() []string {
	var errs []string
	fail := func(path, format string, args ...any) {
		errs = append(errs, c.place(path)+": "+fmt.Sprintf(format, args...))
	}
	c.checkNames(fail)
	c.checkListeners(fail)
	c.checkClasses(fail)
	c.checkFederationLimits(fail)
	c.checkSMTP(fail)
	c.checkRegistration(fail)
	c.checkSSO(fail)
	c.checkCalls(fail)
	c.checkPreviews(fail)
	c.checkNotices(fail)
	for _, name := range slices.Sorted(maps.Keys(c.Logging.Levels)) {
		if _, err := obs.ParseLevel(c.Logging.Levels[name]); err != nil {
			fail(join("logging.levels", name), "logging.levels.%s: %s", name, err)
		}
	}
	return errs
}

// place is where a setting was made.
func (c *Config) place(path string) string {
	if c.files == nil {
		return "default"
	}
	if where, ok := (*c.files)[path]; ok {
		return where
	}
	return "default"
}

func (c *Config) checkNames(fail func(path, format string, args ...any)) {
	switch {
	case c.ServerName == "":
		fail("server_name", "server_name must not be empty: write the domain of your users, such as example.org")
	case strings.ToLower(c.ServerName) != c.ServerName:
		fail("server_name", "server_name is %q: write it in lower case", c.ServerName)
	case !ValidServerName(c.ServerName):
		fail("server_name", "server_name is %q: write a host name with an optional port, such as example.org", c.ServerName)
	}
	if c.DataDir == "" {
		fail("data_dir", "data_dir must not be empty")
	}
	db := c.Database.URL
	if db != "" && !strings.HasPrefix(db, "sqlite:") && !strings.HasPrefix(db, "postgres://") && !strings.HasPrefix(db, "postgresql://") {
		fail("database.url", "database.url must start with sqlite: or postgres://")
	}
	u, err := url.Parse(c.PublicBaseURL)
	if c.PublicBaseURL != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "") {
		fail("public_base_url", "public_base_url is %q: write a URL such as https://matrix.example.org", c.PublicBaseURL)
	}
	if c.Media.MaxUploadSize == 0 {
		fail("media.max_upload_size", "media.max_upload_size must be above 0")
	}
}

func (c *Config) checkListeners(fail func(path, format string, args ...any)) {
	if c.Listeners.Client.Address == "" {
		fail("listeners.client.address", "listeners.client.address must not be empty: clients need it")
	}
	for _, l := range []struct{ path, cert, key string }{
		{"listeners.client", c.Listeners.Client.TLSCert, c.Listeners.Client.TLSKey},
		{"listeners.federation", c.Listeners.Federation.TLSCert, c.Listeners.Federation.TLSKey},
	} {
		if (l.cert == "") != (l.key == "") {
			fail(l.path, "%s needs both tls_cert and tls_key, or neither", l.path)
		}
	}
}

func (c *Config) checkRegistration(fail func(path, format string, args ...any)) {
	versions, seen := map[string]string{}, map[string]bool{}
	for _, p := range c.Registration.Terms {
		u, err := url.Parse(p.URL)
		switch {
		case p.Policy == "" || p.Version == "" || p.Language == "" || p.Language == "version" || p.Name == "":
			fail("registration.terms", "registration.terms: each entry needs policy, version, language, name and url")
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			fail("registration.terms", "registration.terms: the url %q of %s is no address of a web page", p.URL, p.Policy)
		case versions[p.Policy] != "" && versions[p.Policy] != p.Version:
			fail("registration.terms", "registration.terms: %s has several versions; all languages need the same", p.Policy)
		case seen[p.Policy+"\x00"+p.Language]:
			fail("registration.terms", "registration.terms: %s is there twice for language %s", p.Policy, p.Language)
		}
		versions[p.Policy], seen[p.Policy+"\x00"+p.Language] = p.Version, true
	}
	if n := c.Registration.MinPassword; n < 1 || n > 128 {
		fail("registration.min_password_length", "registration.min_password_length is %d: write a number from 1 to 128", n)
	}
	captcha := c.Registration.Captcha
	if captcha.SiteKey == "" {
		return
	}
	if captcha.Secret == "" {
		fail("registration.captcha.secret", "registration.captcha.secret is missing: it comes with the site key")
	}
	for _, where := range [][2]string{{"verify_url", captcha.VerifyURL}, {"script_url", captcha.ScriptURL}} {
		if u, err := url.Parse(where[1]); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			fail("registration.captcha."+where[0], "registration.captcha.%s is %q: write a URL", where[0], where[1])
		}
	}
}

// providerID is what can stand in a path as it is (Appendices, "Opaque Identifiers"), and brand what clients know.
var (
	providerID = regexp.MustCompile(`^[A-Za-z0-9._~-]{1,64}$`)
	brand      = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,254}$`)
	mediaURI   = regexp.MustCompile(`^mxc://[^/]+/[A-Za-z0-9_-]+$`)
)

func (c *Config) checkSSO(fail func(path, format string, args ...any)) {
	const where = "sso.providers"
	if len(c.SSO.Providers) > 0 && c.PublicBaseURL == "" {
		fail(where, "%s needs public_base_url too: providers send people back to it", where)
	}
	seen := map[string]bool{}
	for _, p := range c.SSO.Providers {
		if why := p.check(); why != "" {
			fail(where, "%s: %q %s", where, p.ID, why)
		}
		if seen[p.ID] {
			fail(where, "%s: %q is there twice", where, p.ID)
		}
		seen[p.ID] = true
	}
	for _, client := range c.SSO.TrustedClients {
		u, err := url.Parse(client)
		if err != nil || u.Scheme == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Scheme == "https" || u.Scheme == "http") && u.Host == "" {
			fail("sso.trusted_clients", "sso.trusted_clients: %q is not the beginning of a client's URL, such as https://app.element.io/", client)
		}
	}
}

// check says what is wrong with a provider; "" when nothing is.
func (p Provider) check() string {
	u, err := url.Parse(p.Issuer)
	switch {
	case !providerID.MatchString(p.ID):
		return "is no id: write up to 64 of the characters a-z, 0-9 and . _ ~ -"
	case p.Name == "" || p.ClientID == "":
		return "needs name and client_id"
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Sprintf("has the issuer %q: write its URL, such as https://login.example.org/realms/main", p.Issuer)
	case p.ClientSecret != "" && p.ClientSecretFile != "":
		return "has both client_secret and client_secret_file: keep one"
	case p.Brand != "" && !brand.MatchString(p.Brand):
		return fmt.Sprintf("has the brand %q: write a name such as google", p.Brand)
	case p.Icon != "" && !mediaURI.MatchString(p.Icon):
		return fmt.Sprintf("has the icon %q: write the mxc:// URI of an uploaded picture", p.Icon)
	case p.Adopt == "localpart" && p.StripDomain:
		return "has both adopt: localpart and strip_domain: people of another domain would get accounts that are not theirs"
	}
	return ""
}

func (c *Config) checkCalls(fail func(path, format string, args ...any)) {
	turn := c.Calls.TURN
	for _, uri := range turn.URIs {
		if scheme, host, _ := strings.Cut(uri, ":"); host == "" || scheme != "turn" && scheme != "turns" && scheme != "stun" && scheme != "stuns" {
			fail("calls.turn.uris", "calls.turn.uris: %q is no address of a TURN server, such as turn:turn.example.org:3478?transport=udp", uri)
		}
	}
	if len(turn.URIs) > 0 {
		if turn.Secret == "" && (turn.User == "" || turn.Password == "") {
			fail("calls.turn.uris", "calls.turn needs secret, or user and password")
		}
		if ttl := time.Duration(turn.TTL); ttl < time.Minute || ttl > 30*24*time.Hour {
			fail("calls.turn.ttl", "calls.turn.ttl is %s: write a time from 1m to 30d", turn.TTL)
		}
	}
	if delay := time.Duration(c.Calls.MaxEventDelay); delay < time.Minute || delay > 366*24*time.Hour {
		fail("calls.max_event_delay", "calls.max_event_delay is %s: write a time from 1m to 366d", c.Calls.MaxEventDelay)
	}
	if n := c.Calls.MaxDelayedEvents; n > 10_000 {
		fail("calls.max_delayed_events", "calls.max_delayed_events is %d: write a number from 0 to 10000", n)
	}
	for _, service := range c.Calls.LiveKit {
		if u, err := url.Parse(service); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			fail("calls.livekit", "calls.livekit: %q is no URL, such as https://matrix-rtc.example.org/livekit/jwt", service)
		}
	}
}

// languageRange is an entry of Accept-Language (RFC 9110, 12.5.4).
var languageRange = regexp.MustCompile(`^(\*|[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*)(;q=[01](\.[0-9]{1,3})?)?$`)

func (c *Config) checkPreviews(fail func(path, format string, args ...any)) {
	p := c.Media.URLPreviews
	for _, size := range []struct {
		name  string
		value Size
	}{{"max_page_size", p.MaxPageSize}, {"max_image_size", p.MaxImageSize}, {"cache_size", p.CacheSize}} {
		if size.value == 0 {
			fail("media.url_previews."+size.name, "media.url_previews.%s must be above 0", size.name)
		}
	}
	if time.Duration(p.CacheAge) < time.Hour {
		fail("media.url_previews.cache_age", "media.url_previews.cache_age is %s: write at least 1h, for which a preview is shown again", p.CacheAge)
	}
	for _, l := range p.Languages {
		if !languageRange.MatchString(l) {
			fail("media.url_previews.languages", "media.url_previews.languages: %q is no language, such as en, pt-BR or en;q=0.5", l)
		}
	}
}

var localpart = regexp.MustCompile(`^[a-z0-9._=/+-]{1,100}$`)

func (c *Config) checkNotices(fail func(path, format string, args ...any)) {
	n := c.Notices
	if n.Localpart != "" && !localpart.MatchString(n.Localpart) {
		fail("server_notices.localpart", "server_notices.localpart is %q: write a name of a-z, 0-9 and ._=/+-, without @ and the server's name", n.Localpart)
	}
	if n.Avatar != "" && !strings.HasPrefix(n.Avatar, "mxc://") {
		fail("server_notices.avatar", "server_notices.avatar is %q: upload a picture and write its address, such as mxc://example.org/abc", n.Avatar)
	}
}

func (c *Config) checkSMTP(fail func(path, format string, args ...any)) {
	if c.SMTP.Host == "" {
		if c.Registration.RequireEmail {
			fail("registration.require_email", "registration.require_email needs smtp.host: without it no e-mail can be confirmed")
		}
		return
	}
	if c.PublicBaseURL == "" {
		fail("smtp.host", "smtp.host needs public_base_url too: e-mails carry links to this server")
	}
	if c.SMTP.Port < 1 || c.SMTP.Port > 65535 {
		fail("smtp.port", "smtp.port is %d: write a port, such as 587", c.SMTP.Port)
	}
	if _, err := mail.ParseAddress(c.SMTP.From); err != nil {
		fail("smtp.from", "smtp.from is %q: write an e-mail address, such as Example <matrix@example.org>", c.SMTP.From)
	}
	if c.SMTP.Security == "none" && c.SMTP.User != "" {
		fail("smtp.security", "smtp.security must be starttls or tls when smtp.user is set: a password is not sent without TLS")
	}
	if (c.SMTP.User == "") != (c.SMTP.Password == "") {
		fail("smtp.user", "smtp needs both user and password, or neither")
	}
	if c.SMTP.Timeout == 0 {
		fail("smtp.timeout", "smtp.timeout must be above 0")
	}
}

func (c *Config) checkFederationLimits(fail func(path, format string, args ...any)) {
	l := c.Federation.Limits
	for _, v := range []struct {
		name  string
		value float64
	}{{"per_second", l.PerSecond}, {"burst", float64(l.Burst)}, {"in_flight", float64(l.InFlight)}, {"bytes", float64(l.Bytes)}, {"queue", float64(l.Queue)}} {
		if v.value < 0 {
			fail("federation.limits."+v.name, "federation.limits.%s cannot be below 0", v.name)
		}
	}
}

func (c *Config) checkClasses(fail func(path, format string, args ...any)) {
	known := map[string]string{}
	for name := range defaultClasses() {
		known[name] = name
	}
	for _, name := range slices.Sorted(maps.Keys(c.RateLimits.Classes)) {
		path := join("rate_limits.classes", name)
		if known[name] == "" {
			fail(path, "there is no rate limit %s%s", name, suggest(name, known))
		}
		if class := c.RateLimits.Classes[name]; class.PerSecond > 0 && class.Burst < 1 {
			fail(path, "%s needs a burst of at least 1", path)
		}
	}
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9.-]{1,255}$`)

// ValidServerName checks the grammar of server names (Appendices, "Server Name").
func ValidServerName(s string) bool {
	if s == "" || len(s) > 230 {
		return false
	}
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		host, port = s[:i], s[i+1:]
		if _, err := strconv.ParseUint(port, 10, 16); err != nil || len(port) > 5 {
			return false
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		addr, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		return err == nil && addr.Is6() && addr.Zone() == "" && strings.HasSuffix(inner, "]")
	}
	return hostName.MatchString(host)
}
