package node

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"knock/clientapi"
	accountapi "knock/clientapi/account"
	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/limits"
	"knock/internal/matrixerr"
	"knock/internal/pushrules"
	"knock/mediaapi"
	"knock/mediaapi/files"
	"knock/roomserver/event"
)

// parts are what a node is made of, in the order in which they are built: each needs only those above it.
type parts struct {
	account *account.Service
	push    *pushrules.Service
	media   *mediaapi.Media

	about      *clientapi.API
	accountAPI *accountapi.API

	limiter *limits.Limiter
}

// wire builds the parts: one small method each.
func (n *Node) wire(context.Context) error {
	p := &n.parts
	p.account = n.newAccount()
	p.push = n.newPush()
	var err error
	if p.media, err = n.newMedia(); err != nil {
		return err
	}
	p.about = n.newAbout()
	p.accountAPI = n.newAccountAPI()
	p.limiter = n.newLimiter()
	return nil
}

// startParts loads what must be in memory before the first request.
func (n *Node) startParts(ctx context.Context) error {
	if err := n.parts.push.Load(ctx); err != nil {
		return fmt.Errorf("push rules: %w", err)
	}
	return nil
}

// components are the parts that work in the background.
func (n *Node) components() []component {
	return []component{
		{"account", n.parts.account.Run},
		{"media", n.parts.media.Run},
	}
}

// clientRoutes are the rows of the client listener: everything, so that one reverse proxy is enough.
func (n *Node) clientRoutes() []httpx.Route {
	p := &n.parts
	rows := clientapi.Assemble(p.about, p.accountAPI)
	rows = append(rows, p.media.ClientRoutes()...)
	return append(rows, n.federationRoutes()...)
}

// federationRoutes are the rows of the federation listener.
func (n *Node) federationRoutes() []httpx.Route {
	if !n.cfg.Federation.Enabled {
		return nil
	}
	return n.parts.media.FederationRoutes()
}

func (n *Node) clientHandler() http.Handler {
	return httpx.NewRouter(n.clientRoutes(), n.hooks(n.cfg.Listeners.Client.TrustedProxies))
}

func (n *Node) federationHandler() http.Handler {
	return httpx.NewRouter(n.federationRoutes(), n.hooks(nil))
}

func (n *Node) newAccount() *account.Service {
	return account.New(account.Options{DB: n.db, Hub: n.hub, ServerName: n.cfg.ServerName,
		Log: n.logs.Component("account"), Registerer: n.metrics})
}

func (n *Node) newPush() *pushrules.Service {
	return pushrules.New(pushrules.Options{DB: n.db, Hub: n.hub, Log: n.logs.Component("push"), Registerer: n.metrics})
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

func (n *Node) newAbout() *clientapi.API {
	s := n.cfg.Support
	return clientapi.New(clientapi.Options{PublicBaseURL: n.cfg.PublicBaseURL, DelegatedTo: n.cfg.Federation.PublicAddress,
		SupportEmail: s.Email, SupportUser: s.MatrixID, SupportPage: s.Page,
		RoomVersions: event.Versions(), DefaultVersion: n.cfg.Room.DefaultVersion})
}

func (n *Node) newAccountAPI() *accountapi.API {
	r := n.cfg.Registration
	return accountapi.New(accountapi.Options{Accounts: n.parts.account,
		Registration: accountapi.Registration{Enabled: r.Mode != "disabled", RequireToken: r.Mode == "token", Guests: r.Guests},
		SharedSecret: r.SharedSecret, BaseURL: strings.TrimSuffix(n.cfg.PublicBaseURL, "/"),
		PushRules: n.parts.push.Ruleset, Log: n.logs.Component("account")})
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
