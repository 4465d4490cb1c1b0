package account

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"net/url"
	"strings"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

//go:embed pages/*.html
var pageFiles embed.FS

var pages = template.Must(template.ParseFS(pageFiles, "pages/*.html"))

// pageHeaders keep a page out of frames, caches and referrers, and from loading anything.
func pageHeaders() http.Header {
	return http.Header{
		"Content-Type":            {"text/html; charset=utf-8"},
		"Content-Security-Policy": {"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"},
		"X-Frame-Options":         {"DENY"},
		"Referrer-Policy":         {"no-referrer"},
		"Cache-Control":           {"no-store"},
		"X-Content-Type-Options":  {"nosniff"},
	}
}

// page is an answer for people's browsers.
func page(status int, name string, view any) *httpx.Response {
	return &httpx.Response{Status: status, Header: pageHeaders(), Body: httpx.Stream(func(w http.ResponseWriter) error {
		var b bytes.Buffer
		if err := pages.ExecuteTemplate(&b, name+".html", view); err != nil {
			return err
		}
		w.WriteHeader(status)
		_, _ = w.Write(b.Bytes()) // the browser is gone
		return nil
	})}
}

// failedPage tells people what is wrong. What is nobody's mistake is an error as for programs.
func failedPage(err error) (any, error) {
	known := matrixerr.From(err)
	if known.HTTP >= 500 {
		return nil, err
	}
	return page(known.HTTP, "failed", known.Msg), nil
}

// formOf is the body of a form.
func formOf(r *httpx.Request) (url.Values, error) {
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded") {
		return nil, matrixerr.Unknown(http.StatusUnsupportedMediaType, "This page takes the form that it shows")
	}
	body, err := r.Bytes()
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, matrixerr.Unknown(http.StatusBadRequest, "The form could not be read").With(err)
	}
	return form, nil
}

// confirmView is what the pages behind links in e-mails show.
type confirmView struct {
	Server, Address, Purpose string
	SID, Token               string
	Next, NextHost           string
}
