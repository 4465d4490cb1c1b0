package account

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

// Captcha is a service that speaks the protocol of reCAPTCHA 2.
type Captcha struct {
	SiteKey, Secret string
	VerifyURL       string // where answers are checked
	ScriptURL       string // shows the puzzle on a page of ours
	HTTP            *http.Client
}

const maxCaptcha = 16 << 10 // of an answer, and of what the service says to it

// verifyCaptcha checks the stage m.login.recaptcha.
func (a *API) verifyCaptcha(ctx context.Context, raw json.RawMessage) error {
	var auth struct {
		Response string `json:"response"`
	}
	if err := httpx.Unmarshal(raw, &auth); err != nil {
		return err
	}
	if auth.Response == "" || len(auth.Response) > maxCaptcha {
		return matrixerr.New(http.StatusUnauthorized, "M_CAPTCHA_NEEDED", "Solve the puzzle first")
	}
	good, err := a.o.Registration.Captcha.verify(ctx, auth.Response)
	switch {
	case err != nil:
		return matrixerr.Unknown(http.StatusBadGateway, "The answer to the puzzle could not be checked; try again later").With(err)
	case !good:
		return matrixerr.New(http.StatusUnauthorized, "M_CAPTCHA_INVALID", "The answer to the puzzle is wrong or too old; try again")
	}
	return nil
}

func (c *Captcha) verify(ctx context.Context, response string) (bool, error) {
	form := url.Values{"secret": {c.Secret}, "response": {response}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.VerifyURL, strings.NewReader(form.Encode()))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	var verdict struct {
		Success bool `json:"success"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, maxCaptcha)).Decode(&verdict)
	return verdict.Success, err
}
