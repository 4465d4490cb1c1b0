package clientapi

import (
	"context"
	"fmt"
	"strings"

	"knock/internal/httpx"
)

// specVersions are the versions whose clients are served; docs/coverage.md says which endpoints are not there yet.
// Clients refuse servers that do not name v1.1 or later, and use what a later version brought when it is named.
func specVersions() []string {
	versions := make([]string, 0, 19)
	for minor := 1; minor <= 19; minor++ {
		versions = append(versions, fmt.Sprintf("v1.%d", minor))
	}
	return versions
}

func (a *API) versions(context.Context, *httpx.Request) (any, error) {
	features := make(map[string]bool, len(a.o.Features))
	for _, f := range a.o.Features {
		features[f] = true
	}
	return map[string]any{"versions": specVersions(), "unstable_features": features}, nil
}

func (a *API) capabilities(_ context.Context, r *httpx.Request) (any, error) {
	enabled := func(yes bool) map[string]any { return map[string]any{"enabled": yes} }
	stable := make(map[string]string, len(a.o.RoomVersions))
	for _, v := range a.o.RoomVersions {
		stable[v] = "stable"
	}
	list := map[string]any{
		"m.room_versions":   map[string]any{"default": a.o.DefaultVersion, "available": stable},
		"m.change_password": enabled(true),
		"m.set_displayname": enabled(true),
		"m.set_avatar_url":  enabled(true),
		"m.profile_fields":  enabled(true),
		"m.3pid_changes":    enabled(a.o.Emails),
		"m.get_login_token": enabled(true),
	}
	// MSC4140, under both its names.
	delays := map[string]any{"max_delay_ms": a.o.MaxEventDelay.Milliseconds(), "max_scheduled": a.o.MaxDelayedEvents}
	list["m.delayed_events"], list["org.matrix.msc4140.delayed_events"] = delays, delays
	if r.Caller.Admin {
		list["m.account_moderation"] = map[string]bool{"lock": true, "suspend": true}
	}
	return map[string]any{"capabilities": list}, nil
}

// clientDiscovery is /.well-known/matrix/client.
func clientDiscovery(o Options) any {
	body := map[string]any{"m.homeserver": map[string]any{"base_url": strings.TrimSuffix(o.PublicBaseURL, "/")}}
	if len(o.Foci) > 0 {
		body["org.matrix.msc4143.rtc_foci"] = o.Foci
	}
	return body
}

// support is /.well-known/matrix/support; nil when nobody is named.
func support(o Options) any {
	body := map[string]any{}
	contact := map[string]any{"role": "m.role.admin"}
	if o.SupportEmail != "" {
		contact["email_address"] = o.SupportEmail
	}
	if o.SupportUser != "" {
		contact["matrix_id"] = o.SupportUser
	}
	if len(contact) > 1 {
		body["contacts"] = []any{contact}
	}
	if o.SupportPage != "" {
		body["support_page"] = o.SupportPage
	}
	if len(body) == 0 {
		return nil
	}
	return body
}
