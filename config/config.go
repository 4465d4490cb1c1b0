// Package config owns a node's settings: one YAML file, its defaults, the environment and flags over it, and checks
// that name every mistake with its place. The example file and docs/configuration.md are made from the structs here.
package config

import (
	"net/netip"
	"path/filepath"
	"time"
)

// Config is all that can be set. The doc tags are the documentation: one or more whole sentences each.
type Config struct {
	ServerName    string       `yaml:"server_name" doc:"The name after the colon in user ids and room aliases. It can never change once the database exists."`
	DataDir       string       `yaml:"data_dir" doc:"Directory for the signing key, the SQLite database and media, made on first use. One process at a time may use it. Relative paths below are relative to the directory of this file."`
	SigningKey    string       `yaml:"signing_key" doc:"File with the key that signs events. Empty means signing.key in data_dir. Keep a copy: without it the server cannot speak for its name again."`
	PublicBaseURL string       `yaml:"public_base_url" doc:"The URL under which clients reach this server, such as https://matrix.example.org. When set it is published in /.well-known/matrix/client."`
	Support       Support      `yaml:"support" doc:"Whom to write to; published in /.well-known/matrix/support when something is set."`
	Database      Database     `yaml:"database" doc:"Where rooms and accounts are stored."`
	Listeners     Listeners    `yaml:"listeners" doc:"Addresses that the node listens on. An empty address turns a listener off."`
	Registration  Registration `yaml:"registration" doc:"Who may make an account."`
	SSO           SSO          `yaml:"sso" doc:"Signing in through identity providers (OpenID Connect). docs/sso.md says more."`
	Validity      Validity     `yaml:"account_validity" doc:"Accounts that end unless they are renewed."`
	RateLimits    RateLimits   `yaml:"rate_limits" doc:"How often one user or address may do things."`
	AppServices   []string     `yaml:"app_service_files" doc:"Registration files of bridges and other application services. They are read at the start; docs/bridges.md says more."`
	Federation    Federation   `yaml:"federation" doc:"Talking to other servers."`
	Media         Media        `yaml:"media" doc:"Files, pictures and thumbnails."`
	Push          Push         `yaml:"push" doc:"Notifications through push gateways."`
	Identity      Identity     `yaml:"identity_servers" doc:"Servers that know whose an e-mail address is. A user who invites an address chooses one and brings a token for it."`
	SMTP          SMTP         `yaml:"smtp" doc:"The server through which e-mails to users go. Without it none are sent."`
	Room          Room         `yaml:"room" doc:"Rooms made here."`
	Notices       Notices      `yaml:"server_notices" doc:"What administrators tell users, in a room of its own for each. docs/operations.md says how."`
	Calls         Calls        `yaml:"calls" doc:"Audio and video calls. docs/calls.md says what to set up for them."`
	PolicyServer  PolicyServer `yaml:"policy_server" doc:"Being a policy server: rooms that name this server have it decide which events are recommended. docs/policy.md says more."`
	Presence      Presence     `yaml:"presence" doc:"Who is online."`
	Search        Search       `yaml:"search" doc:"Searching in messages."`
	Logging       Logging      `yaml:"logging" doc:"What is logged; SIGHUP re-reads the levels."`
	files         *filePlaces
}

// Support is the contact in /.well-known/matrix/support.
type Support struct {
	Email    string `yaml:"email" doc:"E-mail address of the administrator."`
	MatrixID string `yaml:"matrix_id" doc:"Matrix user id of the administrator."`
	Page     string `yaml:"page" doc:"URL of a help page."`
}

// Database says where the data is.
type Database struct {
	URL     string `yaml:"url" doc:"sqlite:path/to/file.db, or postgres://user:password@host/name. Empty means knock.db in data_dir."`
	Readers int    `yaml:"readers" doc:"Connections for reading; 0 chooses by the number of processors."`
}

// Listeners are the addresses of a node.
type Listeners struct {
	Client     ClientListener     `yaml:"client" doc:"The client API. Federation is served here too, so that one reverse proxy is enough."`
	Federation FederationListener `yaml:"federation" doc:"Federation with TLS of its own. Turn it off when a proxy forwards federation to the client listener."`
	Metrics    MetricsListener    `yaml:"metrics" doc:"Prometheus metrics and the health pages. Keep it away from the public."`
}

// ClientListener serves clients.
type ClientListener struct {
	Address        string         `yaml:"address" check:"address" doc:"Host and port. The default takes connections from this machine only."`
	TLSCert        string         `yaml:"tls_cert" doc:"File with the certificate chain; empty serves plain HTTP, for a reverse proxy. SIGHUP re-reads it."`
	TLSKey         string         `yaml:"tls_key" doc:"File with the certificate's private key."`
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies" doc:"Networks of the reverse proxies whose X-Forwarded-For header is believed."`
}

// FederationListener serves other servers.
type FederationListener struct {
	Address string `yaml:"address" check:"address" doc:"Host and port."`
	TLSCert string `yaml:"tls_cert" doc:"File with the certificate chain. Empty makes a self-signed one in data_dir, which other servers accept only when they are told to trust it."`
	TLSKey  string `yaml:"tls_key" doc:"File with the certificate's private key."`
}

// MetricsListener serves operators.
type MetricsListener struct {
	Address string `yaml:"address" check:"address" doc:"Host and port."`
}

// Registration says who may make an account.
type Registration struct {
	Mode         string   `yaml:"mode" enum:"disabled,token,open" doc:"disabled: only the command line makes accounts. token: people need a registration token (knock token create). open: everybody; on the internet this attracts abuse."`
	SharedSecret string   `yaml:"shared_secret" doc:"Secret for tools that make accounts through /_synapse/admin/v1/register. Empty turns that off."`
	RequireEmail bool     `yaml:"require_email" doc:"Ask for a confirmed e-mail address too; needs smtp. Without this people may leave it out."`
	MinPassword  int      `yaml:"min_password_length" doc:"How many characters a password needs when people choose one."`
	Guests       bool     `yaml:"guests" doc:"Allow guest accounts."`
	Terms        []Policy `yaml:"terms" doc:"Documents that people have to accept before they get an account. One entry for each document and language: {policy: privacy, version: 1.0, language: en, name: Privacy policy, url: https://example.org/privacy}."`
	Captcha      Captcha  `yaml:"captcha" doc:"A puzzle that programs cannot solve easily, for open registration."`
}

// Policy is a document in one language.
type Policy struct {
	Policy   string `yaml:"policy" doc:"A name for programs, the same in all languages."`
	Version  string `yaml:"version" doc:"Its version, the same in all languages."`
	Language string `yaml:"language" doc:"Such as en."`
	Name     string `yaml:"name" doc:"Its title."`
	URL      string `yaml:"url" doc:"Where it can be read."`
}

// Captcha is a service that speaks the protocol of reCAPTCHA 2.
type Captcha struct {
	SiteKey   string `yaml:"site_key" doc:"The public key. Empty turns the puzzle off."`
	Secret    string `yaml:"secret" doc:"The secret key."`
	VerifyURL string `yaml:"verify_url" doc:"Where answers are checked. hCaptcha and Turnstile have addresses of their own that work too, but apps may know reCAPTCHA only."`
	ScriptURL string `yaml:"script_url" doc:"The script that shows the puzzle on the server's own page, for apps that cannot."`
}

// SSO is signing in through identity providers.
type SSO struct {
	Providers      []Provider     `yaml:"providers" doc:"Identity providers, such as {id: corp, name: Example Corp, issuer: https://login.example.org, client_id: knock, client_secret_file: sso.secret}. Needs public_base_url. docs/sso.md lists what each may have."`
	TrustedClients []string       `yaml:"trusted_clients" doc:"Clients, by the beginning of their URLs such as https://app.element.io/, that get access to an account without a page that asks the user."`
	AllowNetworks  []netip.Prefix `yaml:"allow_networks" doc:"Private or local networks that providers may be in. All other private ranges are refused."`
}

// Provider is an identity provider.
type Provider struct {
	ID               string   `yaml:"id" doc:"A name for programs; it is part of the address to which the provider sends people back."`
	Name             string   `yaml:"name" doc:"Its name for people."`
	Brand            string   `yaml:"brand" doc:"What clients draw on the button, such as google or github."`
	Icon             string   `yaml:"icon" doc:"The mxc:// URI of a picture for the button."`
	Issuer           string   `yaml:"issuer" doc:"Its URL, as it stands in its discovery document."`
	ClientID         string   `yaml:"client_id" doc:"The name by which it knows this server."`
	ClientSecret     string   `yaml:"client_secret" doc:"The secret that it gave to this server."`
	ClientSecretFile string   `yaml:"client_secret_file" doc:"A file with that secret."`
	Scopes           []string `yaml:"scopes" doc:"What to ask for beside openid. Empty is profile and email."`
	LocalpartClaim   string   `yaml:"localpart_claim" doc:"The claim that new user names are made of. Empty is preferred_username."`
	StripDomain      bool     `yaml:"strip_domain" doc:"Leave out what comes behind an @ there."`
	DisplayNameClaim string   `yaml:"display_name_claim" doc:"The claim with the display name. Empty is name."`
	EmailClaim       string   `yaml:"email_claim" doc:"The claim with an e-mail address, which is taken when email_verified is true. Empty is email."`
	Adopt            string   `yaml:"adopt" enum:"none,localpart,email" doc:"Which account that exists already a person gets: none, the one with the same user name, or the one with the same confirmed address."`
	ExistingOnly     bool     `yaml:"existing_only" doc:"Nobody gets an account by signing in."`
	NoPasswords      bool     `yaml:"no_passwords" doc:"Who is known there has no other way in: passwords of their accounts are not taken."`
	Backchannel      bool     `yaml:"backchannel_logout" doc:"End devices when the provider says that the session which they signed in with has ended."`
	SkipReauth       bool     `yaml:"skip_reauthentication" doc:"Who is signed in at the provider need not do so again to confirm something."`
}

// Validity says how long accounts are good.
type Validity struct {
	Period      Duration `yaml:"period" doc:"How long an account is good, from its making or its last renewal; 0 is for ever. Accounts that are there already get a whole period. Those of administrators and of application services do not end."`
	RenewBefore Duration `yaml:"renew_before" doc:"How long before the end an e-mail with a link goes to the user's addresses, with which the account is renewed; 0 sends none. Needs smtp."`
}

// RateLimits are token buckets.
type RateLimits struct {
	Enabled bool             `yaml:"enabled" doc:"Turn this off for load tests only."`
	Classes map[string]Class `yaml:"classes" doc:"By kind of request: so many at once (burst), then so many per second. A class that is left out keeps its default."`
}

// Class is one bucket.
type Class struct {
	PerSecond float64 `yaml:"per_second" doc:"Refill."`
	Burst     int     `yaml:"burst" doc:"Size."`
}

// Federation says how to talk to other servers.
type Federation struct {
	Enabled           bool           `yaml:"enabled" doc:"Off keeps all rooms to this server."`
	PublicAddress     string         `yaml:"public_address" check:"name" doc:"Host and port where others reach this server's federation, such as matrix.example.org:443. When set it is published in /.well-known/matrix/server."`
	AllowNetworks     []netip.Prefix `yaml:"allow_networks" doc:"Private or local networks that may be called, such as 10.1.0.0/16. All other private ranges are refused, so that strangers cannot make this server call its own network."`
	CAFile            string         `yaml:"ca_file" doc:"File with further root certificates (PEM) to trust for federation, identity servers, identity providers and previews of pages, beside the system's."`
	AllowDomains      []string       `yaml:"allow_domains" check:"name" doc:"When not empty, only these servers are spoken to. *.example.org matches all names below example.org."`
	DenyDomains       []string       `yaml:"deny_domains" check:"name" doc:"Servers that are never spoken to; patterns as above."`
	Partners          []string       `yaml:"partners" check:"name" doc:"Servers that always matter, patterns as above: while they are down they are tried every five minutes, and they never count as gone. Servers that share rooms are treated so for a month."`
	RetireAfter       Duration       `yaml:"retire_after" doc:"How long nothing may be heard of a server before it counts as gone: it is left alone, and messages to its devices are dropped, until it calls or a user of its joins a room. 0 is never."`
	TrustedKeyServers []string       `yaml:"trusted_key_servers" check:"name" doc:"Servers asked for the keys of servers that do not answer themselves. Each learns whom you talk to and is believed."`

	PartialJoins bool `yaml:"partial_joins" doc:"Use rooms of other servers as soon as they are joined, and fetch their members afterwards. Off, joining a large room takes until all its members are here."`

	Limits FederationLimits `yaml:"limits" doc:"What one other server may ask of this one. What is more is refused, and counted in knock_federation_refused_requests_total, knock_rooms_inbound_refused_total and knock_rooms_inbound_held_back_total."`
}

// FederationLimits bound what one other server may ask for.
type FederationLimits struct {
	PerSecond  float64  `yaml:"per_second" doc:"Requests a second, on average. 0 is no limit."`
	Burst      int      `yaml:"burst" doc:"Requests at once. 0 is 500."`
	InFlight   int      `yaml:"in_flight" doc:"Requests that are worked on at a time. 0 is 64."`
	Bytes      Size     `yaml:"bytes" doc:"Bodies of these requests, in all. 0 is 64MiB."`
	Queue      int      `yaml:"queue" doc:"Events that wait to be placed, of a server or of a room; half of it of one server in one room. 0 is 10000."`
	Resolution Duration `yaml:"resolution" doc:"Time in state resolution for the server's events, each minute. Five times as much may be used at a stretch; then they wait. 0 is 10s."`
}

func defaultFederationLimits() FederationLimits {
	return FederationLimits{PerSecond: 100, Burst: 500, InFlight: 64, Bytes: 64 << 20, Queue: 10_000, Resolution: Duration(10 * time.Second)}
}

// Media says how files are kept.
type Media struct {
	Path                  string   `yaml:"path" doc:"Directory of the files. Empty means media in data_dir."`
	MaxUploadSize         Size     `yaml:"max_upload_size" doc:"Largest file that users may upload and that is fetched from other servers."`
	UserQuota             Size     `yaml:"user_quota" doc:"How much one user may store; 0 is no limit."`
	LegacyUnauthenticated bool     `yaml:"legacy_unauthenticated" doc:"Serve new files on the old download endpoints, which anybody can read without an access token."`
	RemoteCacheSize       Size     `yaml:"remote_cache_size" doc:"How much of other servers' files is kept; those used longest ago go first. 0 is no limit."`
	RemoteCacheAge        Duration `yaml:"remote_cache_age" doc:"How long an unused file of another server is kept; 0 is for ever."`
	URLPreviews           Previews `yaml:"url_previews" doc:"Previews of the web pages that messages link to. docs/media.md says more."`
}

// Previews says how web pages are fetched for previews.
type Previews struct {
	Enabled       bool           `yaml:"enabled" doc:"On makes this server fetch pages that its users name, so that users do not show their addresses to them. The pages, and whoever runs them, see this server instead."`
	AllowDomains  []string       `yaml:"allow_domains" check:"name" doc:"When not empty, only pages of these hosts are fetched, and images that they keep there. *.example.org matches all names below example.org."`
	DenyDomains   []string       `yaml:"deny_domains" check:"name" doc:"Hosts that are never asked, for images neither; patterns as above."`
	AllowNetworks []netip.Prefix `yaml:"allow_networks" doc:"Private or local networks that pages may be in, such as 10.1.0.0/16: every user can then see what pages there say about themselves. All other private ranges are refused."`
	Languages     []string       `yaml:"languages" doc:"Languages to ask pages for, the preferred first, such as [de, en]. Empty leaves it to the pages."`
	MaxPageSize   Size           `yaml:"max_page_size" doc:"How much of a page is read."`
	MaxImageSize  Size           `yaml:"max_image_size" doc:"Largest image of a page that is shown."`
	CacheAge      Duration       `yaml:"cache_age" doc:"How long previews and their images are kept."`
	CacheSize     Size           `yaml:"cache_size" doc:"How much of them is kept; the oldest go first. The images of one day may not be more than this either."`
}

func defaultPreviews() Previews {
	return Previews{MaxPageSize: 4 << 20, MaxImageSize: 10 << 20, CacheAge: Duration(7 * 24 * time.Hour), CacheSize: 1 << 30}
}

// Push is how push gateways are called.
type Push struct {
	AllowNetworks []netip.Prefix `yaml:"allow_networks" doc:"Private or local networks that push gateways may be in, such as 10.1.0.0/16 for a gateway of your own. All other private ranges are refused, since users choose the gateway."`
	EmailDelay    Duration       `yaml:"email_delay" doc:"How long a message lies unread before an e-mail tells of it, to users who want such e-mails. Further ones come ever more seldom while nothing is read."`
}

// Identity says which identity servers may be used.
type Identity struct {
	Enabled       bool           `yaml:"enabled" doc:"Off refuses invites to e-mail addresses."`
	Allow         []string       `yaml:"allow" check:"name" doc:"When not empty, only these identity servers are used. *.example.org matches all names below example.org."`
	AllowNetworks []netip.Prefix `yaml:"allow_networks" doc:"Private or local networks that identity servers may be in. All other private ranges are refused, since users choose the server."`
}

// SMTP is a mail server that takes e-mails for others.
type SMTP struct {
	Host     string   `yaml:"host" doc:"Its host name. Empty turns e-mail off."`
	Port     int      `yaml:"port" doc:"587 is usual for starttls, 465 for tls, 25 for none."`
	Security string   `yaml:"security" enum:"starttls,tls,none" doc:"starttls: TLS after a greeting, required. tls: TLS from the start. none: for a mail server on the same machine; no password is sent."`
	User     string   `yaml:"user" doc:"Name to authenticate with; empty does not authenticate."`
	Password string   `yaml:"password" doc:"Password of that name."`
	From     string   `yaml:"from" doc:"Sender of the e-mails, such as Example <matrix@example.org>."`
	Timeout  Duration `yaml:"timeout" doc:"How long handing over one e-mail may take."`
}

// Room is about rooms made here.
type Room struct {
	PolicyOptional bool   `yaml:"policy_optional" doc:"What to do when a room's policy server gives no answer: false sends and shows nothing until it does, true goes on without it. What it refuses is never sent."`
	DefaultVersion string `yaml:"default_version" enum:"1,2,3,4,5,6,7,8,9,10,11,12" doc:"Version of a new room when the client asks for none."`
}

// Notices is how server notices look.
type Notices struct {
	Localpart   string `yaml:"localpart" doc:"Name of the user who sends them, such as _server for @_server:example.org. It is made for that, and nobody can register it. Empty turns notices off."`
	DisplayName string `yaml:"display_name" doc:"What that user is called."`
	Avatar      string `yaml:"avatar" doc:"Picture of the user and of the rooms: the mxc:// URI of an uploaded file."`
	RoomName    string `yaml:"room_name" doc:"What the rooms are called. Rooms that are there get a new name with their next notice."`
	AutoJoin    bool   `yaml:"auto_join" doc:"Join users at once. Otherwise they are invited, and cannot decline before they have joined."`
}

// Calls is what clients need to call each other.
type Calls struct {
	TURN    TURN     `yaml:"turn" doc:"The relay for calls between two people whose networks let nothing through directly."`
	LiveKit []string `yaml:"livekit" doc:"For calls of many: the URLs of the services that let users into a LiveKit server (lk-jwt-service), the preferred first. Published in /.well-known/matrix/client too."`

	MaxEventDelay    Duration `yaml:"max_event_delay" doc:"The longest time for which clients may delay an event. Calls delay the word that somebody has left, so that it is sent when their client is gone."`
	MaxDelayedEvents int      `yaml:"max_delayed_events" doc:"How many delayed events each user may have waiting; 0 turns them off."`
}

// TURN is a TURN server.
type TURN struct {
	URIs     []string `yaml:"uris" doc:"Its addresses, such as turn:turn.example.org:3478?transport=udp and turns:turn.example.org:5349. Empty means there is none."`
	Secret   string   `yaml:"secret" doc:"The secret that it was given too (static-auth-secret of coturn); each user then gets a password of their own, for a while."`
	User     string   `yaml:"user" doc:"Without a secret: the name that everybody uses."`
	Password string   `yaml:"password" doc:"Password of that name."`
	TTL      Duration `yaml:"ttl" doc:"How long passwords are good. Calls that last longer get new ones."`
	Guests   bool     `yaml:"guests" doc:"Let guests use it."`
}

// PolicyServer is the role of a policy server and its rules.
type PolicyServer struct {
	Enabled     bool     `yaml:"enabled" doc:"Sign events of rooms that this server is in; /.well-known/matrix/policy_server then tells the key that rooms name in m.room.policy."`
	Key         string   `yaml:"key" doc:"File with the key that signs, made on first use. Empty means policy.key in data_dir."`
	Rooms       []string `yaml:"rooms" doc:"When not empty, only these rooms (ids) are served."`
	Lists       []string `yaml:"lists" doc:"Rooms (ids) whose policy lists decide: users, servers and rooms that a rule there bans are not recommended. A user of this server must be in them."`
	DenyUsers   []string `yaml:"deny_users" doc:"Further users who are not recommended, such as @spam*:example.org."`
	DenyServers []string `yaml:"deny_servers" doc:"Further servers, such as *.example.org."`
	DenyPhrases []string `yaml:"deny_phrases" doc:"Messages with one of these in their text are not recommended; letter case does not count. Encrypted messages cannot be looked at."`
	MaxMentions int      `yaml:"max_mentions" doc:"Messages that mention more users are not recommended; 0 is no limit."`
}

// Presence is who is online.
type Presence struct {
	Enabled bool `yaml:"enabled" doc:"Off saves work on busy servers; clients then show nobody as online."`
}

// Search is about searching in messages.
type Search struct {
	Enabled bool `yaml:"enabled" doc:"Unencrypted messages and the names and topics of rooms are indexed in the database, so that clients can search them. Off removes the index; on again makes it anew."`
}

// Logging says what is logged. Message content, tokens and keys never are.
type Logging struct {
	Format string            `yaml:"format" enum:"text,json" doc:"text for people, json for collectors."`
	Level  string            `yaml:"level" enum:"error,warn,info,debug,trace" doc:"The least important lines that are written."`
	Levels map[string]string `yaml:"levels" doc:"Other levels by part of the node (the part field of a line), such as {http: warn}."`
}

// Default is the configuration of a local trial.
func Default() *Config {
	return &Config{
		ServerName: "localhost",
		DataDir:    "data",
		Listeners: Listeners{
			Client:     ClientListener{Address: "localhost:8008"},
			Federation: FederationListener{Address: ":8448"},
			Metrics:    MetricsListener{Address: "localhost:8009"},
		},
		Registration: Registration{Mode: "token", MinPassword: 8, Captcha: defaultCaptcha()},
		Validity:     Validity{RenewBefore: Duration(7 * 24 * time.Hour)},
		RateLimits:   RateLimits{Enabled: true, Classes: defaultClasses()},
		Federation:   Federation{Enabled: true, PartialJoins: true, RetireAfter: Duration(30 * 24 * time.Hour), Limits: defaultFederationLimits()},
		Media:        Media{MaxUploadSize: 50 << 20, RemoteCacheSize: 10 << 30, RemoteCacheAge: Duration(30 * 24 * time.Hour), URLPreviews: defaultPreviews()},
		Identity:     Identity{Enabled: true},
		Push:         Push{EmailDelay: Duration(10 * time.Minute)},
		SMTP:         SMTP{Port: 587, Security: "starttls", Timeout: Duration(30 * time.Second)},
		Room:         Room{DefaultVersion: "12"},
		Notices:      Notices{Localpart: "_server", DisplayName: "Server notices", RoomName: "Server notices"},
		Calls:        Calls{TURN: TURN{TTL: Duration(24 * time.Hour)}, MaxEventDelay: Duration(24 * time.Hour), MaxDelayedEvents: 100},
		Presence:     Presence{Enabled: true},
		Search:       Search{Enabled: true},
		Logging:      Logging{Format: "text", Level: "info"},
	}
}

// defaultCaptcha is reCAPTCHA, at addresses that answer everywhere.
func defaultCaptcha() Captcha {
	return Captcha{VerifyURL: "https://www.recaptcha.net/recaptcha/api/siteverify", ScriptURL: "https://www.recaptcha.net/recaptcha/api.js"}
}

func defaultClasses() map[string]Class {
	return map[string]Class{
		"login":      {PerSecond: 0.2, Burst: 10},
		"password":   {PerSecond: 0.1, Burst: 30},
		"sso":        {PerSecond: 2, Burst: 60},
		"email":      {PerSecond: 0.01, Burst: 5},
		"register":   {PerSecond: 0.2, Burst: 5},
		"message":    {PerSecond: 10, Burst: 60},
		"join":       {PerSecond: 1, Burst: 20},
		"invite":     {PerSecond: 0.5, Burst: 20},
		"create":     {PerSecond: 0.5, Burst: 10},
		"media":      {PerSecond: 10, Burst: 100},
		"preview":    {PerSecond: 2, Burst: 50},
		"upload":     {PerSecond: 2, Burst: 30},
		"profile":    {PerSecond: 1, Burst: 20},
		"directory":  {PerSecond: 2, Burst: 30},
		"delayed":    {PerSecond: 2, Burst: 60},
		"ephemeral":  {PerSecond: 10, Burst: 60},
		"keys":       {PerSecond: 10, Burst: 100},
		"rendezvous": {PerSecond: 5, Burst: 60},
		"policy":     {PerSecond: 20, Burst: 200},
	}
}

// KeyFile is the path of the signing key.
func (c *Config) KeyFile() string { return c.path(c.SigningKey, "signing.key") }

// PolicyKeyFile is the path of the policy server's key.
func (c *Config) PolicyKeyFile() string { return c.path(c.PolicyServer.Key, "policy.key") }

// MediaPath is the directory of the media store.
func (c *Config) MediaPath() string { return c.path(c.Media.Path, "media") }

// DatabaseURL is the database's URL with the default filled in.
func (c *Config) DatabaseURL() string {
	if c.Database.URL != "" {
		return c.Database.URL
	}
	return "sqlite:" + filepath.Join(c.DataDir, "knock.db")
}

func (c *Config) path(set, name string) string {
	if set != "" {
		return set
	}
	return filepath.Join(c.DataDir, name)
}
