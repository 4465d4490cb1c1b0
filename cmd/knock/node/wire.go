package node

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"knock/clientapi"
	accountapi "knock/clientapi/account"
	"knock/clientapi/admin"
	"knock/clientapi/bridges"
	"knock/clientapi/calls"
	"knock/clientapi/directory"
	ephemeralapi "knock/clientapi/ephemeral"
	keysapi "knock/clientapi/keys"
	noticesapi "knock/clientapi/notices"
	"knock/clientapi/people"
	pushapi "knock/clientapi/push"
	relationsapi "knock/clientapi/relations"
	"knock/clientapi/rendezvous"
	roomsapi "knock/clientapi/rooms"
	"knock/clientapi/slidingsync"
	"knock/clientapi/spaces"
	"knock/clientapi/sync"
	"knock/config"
	"knock/federationapi"
	"knock/federationapi/agree"
	"knock/federationapi/client"
	"knock/federationapi/keys"
	"knock/federationapi/send"
	"knock/internal/account"
	"knock/internal/appservice"
	"knock/internal/delayed"
	"knock/internal/e2ee"
	"knock/internal/ephemeral"
	"knock/internal/httpx"
	idserver "knock/internal/identity"
	"knock/internal/limits"
	"knock/internal/mail"
	"knock/internal/matrixerr"
	"knock/internal/notices"
	"knock/internal/policy"
	"knock/internal/pushers"
	"knock/internal/pushrules"
	"knock/internal/relations"
	"knock/internal/reports"
	"knock/internal/search"
	"knock/internal/sqldb"
	"knock/internal/sso"
	"knock/internal/sticky"
	"knock/internal/threads"
	"knock/internal/userdir"
	"knock/mediaapi"
	"knock/mediaapi/files"
	"knock/mediaapi/preview"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// parts are what a node is made of, in the order in which they are built: each needs only those above it.
type parts struct {
	services *appservice.Services
	sso      *sso.Service // nil without identity providers
	account  *account.Service
	push     *pushrules.Service
	pushers  *pushers.Service
	identity *idserver.Client
	remote   *client.Client // nil without federation, like keys and sender
	keys     *keys.Ring
	store    *store.Store
	sender   *send.Sender
	e2ee     *e2ee.Service
	index    *relations.Index
	rooms    *roomserver.Server
	judge    *policy.Judge // nil unless this is a policy server
	related  *relations.Reader
	users    *userdir.Directory
	queue    *search.Queue
	search   *search.Index
	threads  *threads.Subscriptions
	media    *mediaapi.Media
	delayed  *delayed.Service
	notices  *notices.Service // nil: there are none
	sticky   *sticky.Events

	typing   *ephemeral.Typing
	receipts *ephemeral.Receipts
	presence *ephemeral.Presence

	about        *clientapi.API
	accountAPI   *accountapi.API
	pushAPI      *pushapi.API
	ephemeralAPI *ephemeralapi.API
	sync         *sync.Sync
	sliding      *slidingsync.Sync
	roomsAPI     *roomsapi.API
	directoryAPI *directory.API
	relationsAPI *relationsapi.API
	spacesAPI    *spaces.API
	peopleAPI    *people.API
	keysAPI      *keysapi.API
	bridgesAPI   *bridges.API
	adminAPI     *admin.API
	rendezvous   *rendezvous.API
	callsAPI     *calls.API
	noticesAPI   *noticesapi.API
	federation   *federationapi.API // nil without federation, like keeper
	keeper       *agree.Keeper

	mail *mail.Sender // nil without an SMTP server

	limiter *limits.Limiter
}

// wire builds the parts: one small method each.
func (n *Node) wire(context.Context) error {
	p := &n.parts
	var err error
	if p.services, err = n.newServices(); err != nil {
		return err
	}
	if p.mail, err = n.newMail(); err != nil {
		return err
	}
	if p.sso, err = n.newSSO(); err != nil {
		return err
	}
	p.account = n.newAccount()
	p.push = n.newPush()
	if p.identity, err = n.newIdentity(); err != nil {
		return err
	}
	if p.remote, err = n.newRemote(); err != nil {
		return err
	}
	p.keys = n.newKeyRing()
	p.store = store.New(store.Options{DB: n.db, Registerer: n.metrics})
	p.sender = n.newSender()
	p.e2ee = n.newEncryption()
	p.index = relations.NewIndex(p.store)
	p.queue = search.NewQueue(p.store)
	p.sticky = n.newSticky()
	p.rooms = n.newRooms()
	p.judge = n.newJudge()
	p.services.Use(p.rooms)
	p.pushers = n.newPushers()
	p.account.OnDevices(deviceHooks{p.e2ee, p.pushers})
	p.related = relations.NewReader(relations.Options{Rooms: p.rooms, Ignored: p.account.IgnoredUsersTx})
	p.users = userdir.New(userdir.Options{Rooms: p.rooms, Profile: memberProfiles{p.account}.MemberProfile, Log: n.logs.Component("directory")})
	p.search = search.New(search.Options{Rooms: p.rooms, Relations: p.related, Queue: p.queue, Ignores: p.account.Ignores,
		Log: n.logs.Component("search"), Registerer: n.metrics})
	p.threads = threads.New(p.rooms)
	p.account.OnProfileChange(p.rooms)
	p.account.OnUnknownUser(p.services.AskUser)
	p.delayed = n.newDelayed()
	p.account.OnDeactivate(deactivations{p.rooms, p.delayed})
	if p.media, err = n.newMedia(); err != nil {
		return err
	}
	p.notices = n.newNotices()
	n.newEphemeral()
	p.services.UseSources(appservice.Sources{Typing: p.typing, Receipts: p.receipts, Presence: p.presence, Keys: p.e2ee})
	p.limiter = n.newLimiter()
	p.rendezvous = rendezvous.New(rendezvous.Options{BaseURL: strings.TrimSuffix(n.cfg.PublicBaseURL, "/")})
	p.callsAPI = calls.New(n.callOptions())
	p.about = n.newAbout()
	p.accountAPI = n.newAccountAPI()
	if p.mail != nil {
		p.account.OnExpiry(p.accountAPI.Remind)
	}
	p.pushAPI = pushapi.New(p.push, p.pushers)
	p.ephemeralAPI = ephemeralapi.New(ephemeralapi.Options{Rooms: n.hub, Typing: p.typing, Receipts: p.receipts, Presence: p.presence})
	p.sync = n.newSync()
	p.sliding = slidingsync.New(slidingsync.Options{DB: n.db, Hub: n.hub, Rooms: p.rooms, Reader: p.sync.Reader(), Accounts: p.account,
		Push: p.push, Typing: p.typing, Receipts: p.receipts, Presence: p.presence, Keys: p.e2ee, Threads: p.threads, Sticky: p.sticky,
		Log: n.logs.Component("sync"), Registerer: n.metrics})
	p.roomsAPI = n.newRoomsAPI()
	p.directoryAPI = n.newDirectoryAPI()
	p.relationsAPI = relationsapi.New(relationsapi.Options{Rooms: p.rooms, Relations: p.related, Threads: p.threads, SyncPosition: n.syncPosition})
	p.spacesAPI = n.newSpacesAPI()
	p.peopleAPI = people.New(people.Options{Rooms: p.rooms, Directory: p.users, Reports: reports.New(n.db, nil), Exists: p.account.Exists})
	p.keysAPI = n.newKeysAPI()
	p.bridgesAPI = bridges.New(bridges.Options{Services: p.services, Rooms: p.rooms})
	p.adminAPI = n.newAdminAPI()
	p.noticesAPI = noticesapi.New(p.notices)
	p.federation = n.newFederation()
	p.keeper = n.newKeeper()
	return nil
}

// startParts loads what must be in memory before the first request.
func (n *Node) startParts(ctx context.Context) error {
	if err := n.parts.account.Load(ctx); err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	if err := n.makeSenders(ctx); err != nil {
		return fmt.Errorf("application services: %w", err)
	}
	if err := n.parts.push.Load(ctx); err != nil {
		return fmt.Errorf("push rules: %w", err)
	}
	if err := n.parts.rooms.Start(ctx); err != nil {
		return fmt.Errorf("rooms: %w", err)
	}
	if err := n.parts.sticky.Start(ctx); err != nil {
		return fmt.Errorf("sticky events: %w", err)
	}
	if err := n.parts.e2ee.Start(ctx); err != nil {
		return fmt.Errorf("end-to-end encryption: %w", err)
	}
	if err := n.parts.pushers.Load(ctx); err != nil {
		return fmt.Errorf("pushers: %w", err)
	}
	return nil
}

// components are the parts that work in the background.
func (n *Node) components() []component {
	list := []component{
		{"account", n.parts.account.Run},
		{"rooms", n.parts.rooms.Run},
		{"delayed", n.parts.delayed.Run},
		{"sticky", n.parts.sticky.Run},
		{"e2ee", n.parts.e2ee.Run},
		{"services", n.parts.services.Run},
		{"users", n.parts.users.Run},
		{"search", n.runSearch},
		{"pushers", n.parts.pushers.Run},
		{"push", func(ctx context.Context) error { return n.parts.push.Prune(ctx, presentMembers{n.hub, n.parts.store}) }},
		{"sliding", n.parts.sliding.Run},
		{"media", n.parts.media.Run},
		{"typing", n.parts.typing.Run},
		{"receipts", n.parts.receipts.Run},
		{"presence", n.parts.presence.Run},
	}
	if n.parts.notices != nil {
		list = append(list, component{"notices", n.parts.notices.Run})
	}
	if n.parts.sso != nil {
		list = append(list, component{"sso", n.parts.sso.Run})
	}
	if n.parts.sender != nil {
		list = append(list, component{"sender", n.parts.sender.Run}, component{"keeper", n.parts.keeper.Run})
	}
	return list
}

// clientRoutes are the rows of the client listener: everything, so that one reverse proxy is enough.
func (n *Node) clientRoutes() []httpx.Route {
	p := &n.parts
	rows := clientapi.Assemble(p.sync, p.sliding, p.roomsAPI, p.ephemeralAPI, p.directoryAPI, p.relationsAPI, p.spacesAPI, p.peopleAPI, p.about, p.accountAPI, p.pushAPI, p.keysAPI)
	rows = append(rows, p.media.ClientRoutes()...)
	rows = append(rows, p.bridgesAPI.Routes()...)
	rows = append(rows, p.adminAPI.Routes()...)
	rows = append(rows, p.noticesAPI.Routes()...)
	rows = append(rows, p.rendezvous.Routes()...)
	rows = append(rows, p.callsAPI.Routes()...)
	return append(rows, n.federationRoutes()...)
}

// federationRoutes are the rows of the federation listener.
func (n *Node) federationRoutes() []httpx.Route {
	p := &n.parts
	if p.federation == nil {
		return []httpx.Route{federationapi.OpenIDRoute(p.account)}
	}
	rows := append(p.federation.Routes(), p.keys.Routes()...)
	rows = append(rows, p.spacesAPI.FederationRoutes()...)
	return append(rows, p.media.FederationRoutes()...)
}

func (n *Node) clientHandler() http.Handler {
	return n.watched(httpx.NewRouter(n.clientRoutes(), n.hooks(n.cfg.Listeners.Client.TrustedProxies)))
}

func (n *Node) federationHandler() http.Handler {
	return n.watched(httpx.NewRouter(n.federationRoutes(), n.hooks(nil)))
}

func (n *Node) watched(h http.Handler) http.Handler {
	if n.opts.Watch == nil {
		return h
	}
	return n.opts.Watch(h)
}

func (n *Node) newAccount() *account.Service {
	return account.New(account.Options{DB: n.db, Hub: n.hub, ServerName: n.cfg.ServerName, MinPasswordLength: n.cfg.Registration.MinPassword,
		Validity: account.Validity{Period: time.Duration(n.cfg.Validity.Period), Remind: time.Duration(n.cfg.Validity.RenewBefore)}, Exclusive: n.userTaken, Herald: n.herald(), NoPasswords: n.parts.sso.NoPasswords(),
		Log: n.logs.Component("account"), Registerer: n.metrics})
}

func (n *Node) newPush() *pushrules.Service {
	return pushrules.New(pushrules.Options{DB: n.db, Hub: n.hub, Ignores: n.parts.account, Log: n.logs.Component("push"), Registerer: n.metrics})
}

func (n *Node) newPushers() *pushers.Service {
	p := &n.parts
	o := pushers.Options{DB: n.db, Hub: n.hub, Rooms: p.rooms, Rules: p.push, ServerName: n.cfg.ServerName,
		Ignored: p.account.IgnoredUsers, Client: client.GuardedClient(n.cfg.Push.AllowNetworks, n.opts.Lookup, nil),
		Log: n.logs.Component("push"), Registerer: n.metrics,
		BaseURL: strings.TrimSuffix(n.cfg.PublicBaseURL, "/"), OwnsEmail: p.account.OwnsEmail, MailDelay: time.Duration(n.cfg.Push.EmailDelay)}
	if p.mail != nil {
		o.Mail = p.mail
	}
	s := pushers.New(o)
	n.db.OnPublish(s.Published)
	p.push.OnChange(s.CountsChanged)
	return s
}

// newIdentity makes what calls identity servers.
func (n *Node) newIdentity() (*idserver.Client, error) {
	roots, err := rootCAs(n.cfg.Federation.CAFile)
	if err != nil {
		return nil, err
	}
	o := n.cfg.Identity
	web := client.GuardedClient(o.AllowNetworks, n.opts.Lookup, roots)
	signer := n.keys.Signer(n.cfg.ServerName)
	return idserver.New(idserver.Options{HTTP: web,
		Sign: func(method, uri, destination string, content any) ([]byte, string, error) {
			return client.Sign(signer, method, uri, destination, content)
		}, Allowed: func(server string) bool {
			return len(o.Allow) == 0 || matchesAny(o.Allow, server)
		}}), nil
}

func (n *Node) newRemote() (*client.Client, error) {
	f := n.cfg.Federation
	if !f.Enabled {
		return nil, nil
	}
	roots, err := rootCAs(f.CAFile)
	if err != nil {
		return nil, err
	}
	return client.New(client.Options{ServerName: n.cfg.ServerName, Signer: n.keys.Signer(n.cfg.ServerName), Speaks: n.federatesWith, Partners: n.isPartner, Answered: n.answered,
		AllowNetworks: f.AllowNetworks, RootCAs: roots, Lookup: n.opts.Lookup, UserAgent: "Knock/" + n.opts.Version,
		Log: n.logs.Component("federation"), Registerer: n.metrics}), nil
}

func (n *Node) newKeyRing() *keys.Ring {
	if n.parts.remote == nil {
		return nil
	}
	o := keys.Options{ServerName: n.cfg.ServerName, Signer: n.keys.Signer(n.cfg.ServerName), DB: n.db, Fetch: n.parts.remote,
		Notaries: n.cfg.Federation.TrustedKeyServers, Log: n.logs.Component("federation"), Registerer: n.metrics}
	for _, k := range n.keys.Old {
		o.OldKeys = append(o.OldKeys, keys.OldKey{ID: k.ID, Key: k.Public, Expired: k.Expired.UnixMilli()})
	}
	return keys.New(o)
}

// isPartner says whether a server shares rooms with this one: such servers are never left alone for long.
func (n *Node) isPartner(server string) bool {
	return n.parts.sender != nil && n.parts.sender.Partner(server)
}

// answered hears of a server that answered a call: it is not left alone any longer.
func (n *Node) answered(server string) {
	if n.parts.sender != nil {
		n.parts.sender.Wake(server)
	}
}

func (n *Node) newSender() *send.Sender {
	if n.parts.remote == nil {
		return nil
	}
	return send.New(send.Options{ServerName: n.cfg.ServerName, Store: n.parts.store, Hub: n.hub,
		Client: n.parts.remote, RetireAfter: time.Duration(n.cfg.Federation.RetireAfter),
		Keep: func(server string) bool { return matchesAny(n.cfg.Federation.Partners, server) }, Back: n.back, Log: n.logs.Component("federation"), Registerer: n.metrics})
}

func (n *Node) newKeeper() *agree.Keeper {
	if n.parts.sender == nil {
		return nil
	}
	return agree.New(agree.Options{Rooms: n.parts.rooms, Reachable: n.parts.sender.Reachable, Log: n.logs.Component("federation"), Registerer: n.metrics})
}

// back hears of servers that can be reached again.
func (n *Node) back(server string) { n.parts.keeper.Back(server) }

func (n *Node) newRooms() *roomserver.Server {
	p := &n.parts
	o := roomserver.Options{ServerName: n.cfg.ServerName, Signer: n.keys.Signer(n.cfg.ServerName), Hub: n.hub, Store: p.store,
		Profiles: memberProfiles{p.account}, UnknownAlias: p.services.AskAlias, BlocksInvite: p.account.BlocksInvite, KeyValid: p.identity.KeyValid, AliasesChanged: p.services.AliasesChanged, DefaultVersion: n.cfg.Room.DefaultVersion, Erased: p.account.Erased, PolicyOptional: n.cfg.Room.PolicyOptional, Log: n.logs.Component("rooms"), Registerer: n.metrics,
		PartialJoins: n.cfg.Federation.PartialJoins,
		Inbound:      roomserver.InboundLimits{Full: n.cfg.Federation.Limits.Queue, Thinking: time.Duration(n.cfg.Federation.Limits.Resolution)},
		Participants: []roomserver.Participant{
			counters{push: p.push, hub: n.hub, server: n.cfg.ServerName}, p.index, userdir.NewWatcher(n.hub, n.cfg.ServerName), p.sticky,
			&gatekeeper{e2ee: p.e2ee, store: p.store, server: n.cfg.ServerName, later: &n.later},
		}}
	if n.cfg.Search.Enabled {
		o.Participants = append(o.Participants, p.queue)
	}
	if p.remote != nil {
		o.Remote, o.Verifier, o.Outbound = federationapi.NewRemote(p.remote), p.keys, p.sender
		o.Down = func(server string) bool { return p.remote.Wait(server) > 0 }
		o.Participants = append(o.Participants, p.sender)
		p.sender.Stick(p.sticky)
	}
	if n.policyKey != nil {
		o.PolicyRole = roomserver.NewPolicyRole(n.cfg.ServerName, n.policyKey, func(ctx context.Context, e *event.Event) (string, error) {
			return p.judge.Judge(ctx, e)
		})
	}
	return roomserver.New(o)
}

// policyPublic is the key that rooms name with this server, "" where it is no policy server.
func (n *Node) policyPublic() string {
	if n.policyKey == nil {
		return ""
	}
	return base64.RawStdEncoding.EncodeToString(n.policyKey.Public().(ed25519.PublicKey))
}

// newJudge is nil where this server is no policy server.
func (n *Node) newJudge() *policy.Judge {
	if n.policyKey == nil {
		return nil
	}
	c := n.cfg.PolicyServer
	return policy.New(policy.Options{Rooms: n.parts.rooms, DB: n.db, Log: n.logs.Component("policy"), Serve: c.Rooms, Lists: c.Lists,
		DenyUsers: c.DenyUsers, DenyServers: c.DenyServers, DenyPhrases: c.DenyPhrases, MaxMentions: c.MaxMentions})
}

func (n *Node) newSticky() *sticky.Events {
	return sticky.New(sticky.Options{DB: n.db, Hub: n.hub, ServerName: n.cfg.ServerName, Log: n.logs.Component("rooms"),
		Reconsider: func(ctx context.Context, room string, event int64) (bool, error) {
			return n.parts.rooms.Reconsider(ctx, room, event)
		}})
}

func (n *Node) newDelayed() *delayed.Service {
	c := n.cfg.Calls
	return delayed.New(delayed.Options{DB: n.db, Send: n.sendDelayed, MaxDelay: time.Duration(c.MaxEventDelay), MaxCount: c.MaxDelayedEvents,
		Log: n.logs.Component("delayed"), Registerer: n.metrics})
}

// sendDelayed sends an event that its user scheduled, as if they did it now.
func (n *Node) sendDelayed(ctx context.Context, e *delayed.Event, also func(tx *sqldb.Tx, eventID string) error) (string, error) {
	caller, err := n.parts.account.Acting(ctx, e.User)
	if err != nil {
		return "", err
	}
	caller.DeviceID, caller.AppService = e.Device, e.Service
	if err := clientapi.RateLimit(n.parts.limiter, n.parts.services)("message", caller, ""); err != nil {
		return "", err
	}
	q := roomserver.SendRequest{RoomID: e.Room, Sender: e.User, Type: e.Type, StateKey: e.StateKey, Content: e.Content, Sticky: e.Sticky, Delay: e.ID, Also: also}
	if e.TS != nil {
		q.TS, q.Dated = *e.TS, true
	}
	return n.parts.roomsAPI.Deliver(ctx, caller, q)
}

// delayedFeatures are what /versions names of delayed events (MSC4140), where there are any.
func (n *Node) delayedFeatures() []string {
	if n.parts.delayed.MaxCount() == 0 {
		return nil
	}
	return []string{"org.matrix.msc4140", "org.matrix.msc4140.stable"}
}

// searchIndex is the search index if people may search, else nil.
func (n *Node) searchIndex() *search.Index {
	if !n.cfg.Search.Enabled {
		return nil
	}
	return n.parts.search
}

// runSearch keeps the search index up to date, or removes it where searching is turned off.
func (n *Node) runSearch(ctx context.Context) error {
	if !n.cfg.Search.Enabled {
		return n.parts.search.Remove(ctx)
	}
	return n.parts.search.Run(ctx)
}

func (n *Node) newFederation() *federationapi.API {
	p := &n.parts
	if p.remote == nil {
		return nil
	}
	return federationapi.New(federationapi.Options{ServerName: n.cfg.ServerName, Version: n.opts.Version, Rooms: p.rooms, Services: p.services, Verifier: p.keys,
		Accounts: p.account, Typing: p.typing, Receipts: p.receipts, Presence: p.presence, Encryption: p.e2ee, Alive: n.alive, Limits: n.federationLimits(),
		Log: n.logs.Component("federation"), Registerer: n.metrics})
}

func (n *Node) federationLimits() federationapi.Limits {
	l := n.cfg.Federation.Limits
	out := federationapi.Limits{PerSecond: l.PerSecond, Burst: l.Burst, InFlight: l.InFlight, Bytes: int64(l.Bytes)}
	if l.PerSecond == 0 || !n.cfg.RateLimits.Enabled {
		out.PerSecond = -1
	}
	return out
}

// alive hears of a server that reached us: its back-off ends and what waits for it is sent, unless it is not spoken to.
func (n *Node) alive(server string) {
	if !n.federatesWith(server) {
		return
	}
	n.parts.remote.Alive(server)
	n.parts.sender.Wake(server)
}

func (n *Node) newSync() *sync.Sync {
	p := &n.parts
	return sync.New(sync.Options{DB: n.db, Hub: n.hub, Rooms: p.rooms, Accounts: p.account, Push: p.push, Typing: p.typing,
		Receipts: p.receipts, Presence: p.presence, Keys: p.e2ee, Sticky: p.sticky, Bundle: p.related.Extra, Related: p.related.Related, Registerer: n.metrics})
}

func (n *Node) newAdminAPI() *admin.API {
	var o admin.Options
	if n.parts.sender != nil {
		o.Destinations = destinations{n.parts.sender, n.parts.remote}
	}
	return admin.New(o)
}

// syncPosition reads the token of either kind of sync.
func (n *Node) syncPosition(token string) (int64, bool) {
	if pos, ok := n.parts.sync.Position(token); ok {
		return pos, true
	}
	return n.parts.sliding.Position(token)
}

func (n *Node) newRoomsAPI() *roomsapi.API {
	p := &n.parts
	o := roomsapi.Options{ServerName: n.cfg.ServerName, Services: p.services, Rooms: p.rooms, DB: n.db, Hub: n.hub, SyncPosition: n.syncPosition,
		Accounts: p.account, Events: p.sync.Events, Replaced: n.takeAlong, Delayed: p.delayed, Limit: p.limiter.Allow, Search: n.searchIndex(), Bundle: p.related.Extra, Related: p.related.Related, Check: p.index.Check, Log: n.logs.Component("rooms")}
	if n.cfg.Identity.Enabled {
		o.Identity = p.identity
	}
	if p.notices != nil {
		o.Notices = p.notices.Holds
	}
	return roomsapi.New(o)
}

func (n *Node) newDirectoryAPI() *directory.API {
	o := directory.Options{ServerName: n.cfg.ServerName, Services: n.parts.services, Rooms: n.parts.rooms, DB: n.db, Hub: n.hub,
		Log: n.logs.Component("directory"), Registerer: n.metrics}
	if n.parts.remote != nil {
		o.Remote = remoteDirectory{n.parts.remote}
	}
	return directory.New(o)
}

func (n *Node) newSpacesAPI() *spaces.API {
	o := spaces.Options{Rooms: n.parts.rooms, Log: n.logs.Component("rooms"), Registerer: n.metrics}
	if n.parts.remote != nil {
		o.Remote = n.parts.remote
	}
	return spaces.New(o)
}

func (n *Node) newMedia() (*mediaapi.Media, error) {
	disk, err := files.Open(n.cfg.MediaPath())
	if err != nil {
		return nil, fmt.Errorf("media: %w", err)
	}
	m := n.cfg.Media
	o := mediaapi.Options{DB: n.db, Files: disk, ServerName: n.cfg.ServerName, Log: n.logs.Component("media"), Registerer: n.metrics,
		MaxUpload: int64(m.MaxUploadSize), MaxRemote: int64(m.MaxUploadSize), RemoteCache: int64(m.RemoteCacheSize),
		RemoteRetention: time.Duration(m.RemoteCacheAge), LegacyUnauthenticated: m.LegacyUnauthenticated}
	if n.parts.remote != nil {
		o.Remote = remoteMedia{n.parts.remote}
	}
	if err := n.previews(&o); err != nil {
		return nil, err
	}
	var media *mediaapi.Media
	if m.UserQuota > 0 {
		o.Quota = func(ctx context.Context, user string, size int64) error {
			used, err := media.Usage(ctx, user)
			if err == nil && used.Bytes+size > int64(m.UserQuota) {
				err = matrixerr.Forbidden("Your files would take more than " + m.UserQuota.String() + ", which is what each user may store here")
			}
			return err
		}
	}
	media = mediaapi.New(o)
	return media, nil
}

// previews lets the media store preview web pages, if the configuration does.
func (n *Node) previews(o *mediaapi.Options) error {
	p := n.cfg.Media.URLPreviews
	if !p.Enabled {
		return nil
	}
	roots, err := rootCAs(n.cfg.Federation.CAFile)
	if err != nil {
		return err
	}
	o.Pages = preview.New(preview.Options{Transport: client.WebTransport(p.AllowNetworks, n.opts.Lookup, roots),
		UserAgent: "Knock/" + n.opts.Version + " (bot; makes link previews)", Languages: p.Languages, Allowed: func(host string) bool {
			return !matchesAny(p.DenyDomains, host) && (len(p.AllowDomains) == 0 || matchesAny(p.AllowDomains, host))
		}})
	o.MaxPage, o.MaxPageImage = int64(p.MaxPageSize), int64(p.MaxImageSize)
	o.PreviewAge, o.PreviewCache = time.Duration(p.CacheAge), int64(p.CacheSize)
	return nil
}

// newNotices is nil where there are no server notices.
func (n *Node) newNotices() *notices.Service {
	c := n.cfg.Notices
	if c.Localpart == "" {
		return nil
	}
	return notices.New(notices.Options{DB: n.db, Rooms: n.parts.rooms, Accounts: n.parts.account, Sender: c.Localpart, DisplayName: c.DisplayName,
		Avatar: c.Avatar, RoomName: c.RoomName, AutoJoin: c.AutoJoin, Log: n.logs.Component("notices"),
		Serviced: func(user string) bool { return n.parts.services.UserTaken(user, "") }})
}

// herald is the user who sends server notices, "" where there are none.
func (n *Node) herald() string {
	if n.cfg.Notices.Localpart == "" {
		return ""
	}
	return notices.UserID(n.cfg.Notices.Localpart, n.cfg.ServerName)
}

// userTaken says whether a user id is kept from people, and from all services but one.
func (n *Node) userTaken(user, service string) bool {
	if user == n.herald() {
		return service != notices.ServiceID
	}
	return n.parts.services.UserTaken(user, service)
}

// newEphemeral makes what knows who types, reads and is online.
func (n *Node) newEphemeral() {
	p := &n.parts
	var outbox ephemeral.Outbox
	if p.sender != nil {
		outbox = p.sender
	}
	here := whereabouts{p.rooms, n.logs.Component("ephemeral")}
	p.typing = ephemeral.NewTyping(ephemeral.TypingOptions{Hub: n.hub, Outbox: outbox, Member: here.member,
		Local: func(room string) bool { return n.hub.JoinedCount(room) > 0 }})
	p.receipts = ephemeral.NewReceipts(ephemeral.ReceiptOptions{DB: n.db, Hub: n.hub, Events: places{p.rooms}, Counts: p.push,
		AccountData: p.account, Outbox: outbox, Member: here.member, Log: n.logs.Component("ephemeral")})
	p.presence = ephemeral.NewPresence(ephemeral.PresenceOptions{Enabled: n.cfg.Presence.Enabled, Hub: n.hub, Outbox: outbox, Rooms: here.rooms})
	if p.sender != nil {
		p.sender.Recall(passing{p.receipts, p.presence})
	}
}

// features are the proposals in GET /versions that clients ask for by name.
var features = []string{slidingsync.Feature, "org.matrix.msc3874", "org.matrix.msc3391", "org.matrix.msc4028", "org.matrix.msc4155", "org.matrix.msc4222", "org.matrix.msc4262", "org.matrix.msc4354", "org.matrix.msc4380", "org.matrix.msc4380.stable", "org.matrix.msc4429", "uk.half-shot.msc2666.query_mutual_rooms"}

func (n *Node) callOptions() calls.Options {
	t := n.cfg.Calls.TURN
	return calls.Options{LiveKit: n.cfg.Calls.LiveKit, TURN: calls.TURN{URIs: t.URIs, Secret: t.Secret, User: t.User, Password: t.Password,
		TTL: time.Duration(t.TTL), Guests: t.Guests}}
}

func (n *Node) newAbout() *clientapi.API {
	s := n.cfg.Support
	return clientapi.New(clientapi.Options{PublicBaseURL: n.cfg.PublicBaseURL, DelegatedTo: n.cfg.Federation.PublicAddress,
		SupportEmail: s.Email, SupportUser: s.MatrixID, SupportPage: s.Page,
		RoomVersions: event.Versions(), DefaultVersion: n.cfg.Room.DefaultVersion, Features: slices.Concat(features, n.parts.rendezvous.Features(), n.delayedFeatures()),
		MaxEventDelay: n.parts.delayed.MaxDelay(), MaxDelayedEvents: n.parts.delayed.MaxCount(),
		Emails: n.parts.mail != nil, PolicyKey: n.policyPublic(), Foci: n.callOptions().Transports()})
}

func (n *Node) newAccountAPI() *accountapi.API {
	r := n.cfg.Registration
	o := accountapi.Options{Accounts: n.parts.account, Services: n.parts.services, SSO: n.parts.sso,
		Registration: accountRegistration(r),
		SharedSecret: r.SharedSecret, BaseURL: strings.TrimSuffix(n.cfg.PublicBaseURL, "/"),
		PushRules: n.parts.push.Ruleset, Limit: n.parts.limiter.Allow, Log: n.logs.Component("account")}
	if n.cfg.Identity.Enabled {
		o.Identity = n.parts.identity
	}
	if n.parts.mail != nil {
		o.Mail = n.parts.mail
	}
	if n.parts.remote != nil {
		o.Remote = remoteProfiles{n.parts.remote}
	}
	return accountapi.New(o)
}

func accountRegistration(r config.Registration) accountapi.Registration {
	out := accountapi.Registration{Enabled: r.Mode != "disabled", RequireToken: r.Mode == "token", RequireEmail: r.RequireEmail, Guests: r.Guests}
	for _, p := range r.Terms {
		out.Terms = append(out.Terms, accountapi.Policy(p))
	}
	if c := r.Captcha; c.SiteKey != "" {
		out.Captcha = &accountapi.Captcha{SiteKey: c.SiteKey, Secret: c.Secret, VerifyURL: c.VerifyURL, ScriptURL: c.ScriptURL,
			HTTP: &http.Client{Timeout: 10 * time.Second}}
	}
	return out
}

// newMail is nil without an SMTP server.
func (n *Node) newMail() (*mail.Sender, error) {
	m := n.cfg.SMTP
	if m.Host == "" {
		return nil, nil
	}
	return mail.New(mail.Options{Host: m.Host, Port: m.Port, Security: m.Security, User: m.User, Password: m.Password, From: m.From,
		Timeout: time.Duration(m.Timeout)})
}

func (n *Node) newLimiter() *limits.Limiter {
	o := limits.Options{Classes: map[string]limits.Class{}}
	if n.cfg.RateLimits.Enabled {
		for name, c := range n.cfg.RateLimits.Classes {
			o.Classes[name] = limits.Class{PerSecond: c.PerSecond, Burst: c.Burst}
		}
	}
	return limits.New(o)
}
