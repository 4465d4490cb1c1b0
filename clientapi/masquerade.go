package clientapi

import (
	"context"

	"knock/internal/account"
	"knock/internal/appservice"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

// masquerade is who an application service says that it acts as: a user of its namespaces, its sender without a word,
// and a device of that user (Application Service API, "Identity assertion"; MSC3202 and MSC4326 for the device).
func masquerade(ctx context.Context, accounts *account.Service, service *appservice.Service, r *httpx.Request) (httpx.Caller, error) {
	user := r.Query("user_id")
	if user == "" {
		user = service.Sender
	}
	if !service.OwnsUser(user) {
		return httpx.Caller{}, matrixerr.Forbidden("The user is not in the namespaces of this application service")
	}
	device := r.Query("device_id")
	if device == "" {
		device = r.Query("org.matrix.msc3202.device_id")
	}
	id, err := accounts.UseDevice(ctx, user, device, r.ClientIP())
	if err != nil && matrixerr.From(err).Code == "M_NOT_FOUND" {
		return httpx.Caller{}, matrixerr.Forbidden("The application service has not registered this user; do that with POST /register").With(err)
	}
	if err != nil {
		return httpx.Caller{}, err
	}
	c := id.Caller()
	c.AppService = service.ID
	return c, nil
}

// AuthenticateService makes the router's hook for endpoints that services call without an account.
func AuthenticateService(services *appservice.Services) func(token string) (httpx.Caller, bool) {
	return func(token string) (httpx.Caller, bool) {
		service := services.Token(token)
		if service == nil {
			return httpx.Caller{}, false
		}
		return httpx.Caller{AppService: service.ID}, true
	}
}
