// Package webpage owns what the pages that people open in a browser have in common: their frame, their headers and how
// their forms are read. The pages themselves belong to those who show them.
package webpage

import (
	"bytes"
	"embed"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

//go:embed *.html
var frame embed.FS

// Pages are templates, each named by its file. They begin with {{template "head" title}} and end with
// {{template "foot"}}.
type Pages struct{ t *template.Template }

// Parse reads the templates in files, which match the pattern. It panics when one is wrong, as template.Must does.
func Parse(files fs.FS, pattern string) *Pages {
	t := template.Must(template.ParseFS(frame, "*.html"))
	return &Pages{template.Must(t.ParseFS(files, pattern))}
}

// headers keep a page out of frames, caches and referrers, and from loading anything.
func headers() http.Header {
	return http.Header{
		"Content-Type":            {"text/html; charset=utf-8"},
		"Content-Security-Policy": {"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"},
		"X-Frame-Options":         {"DENY"},
		"Referrer-Policy":         {"no-referrer"},
		"Cache-Control":           {"no-store"},
		"X-Content-Type-Options":  {"nosniff"},
	}
}

// Page is an answer for people's browsers: the template name.html with view.
func (p *Pages) Page(status int, name string, view any) *httpx.Response {
	return &httpx.Response{Status: status, Header: headers(), Body: httpx.Stream(func(w http.ResponseWriter) error {
		var b bytes.Buffer
		if err := p.t.ExecuteTemplate(&b, name+".html", view); err != nil {
			return err
		}
		w.WriteHeader(status)
		_, _ = w.Write(b.Bytes()) // the browser is gone
		return nil
	})}
}

// Redirect is an answer that sends a browser elsewhere.
func Redirect(location string) *httpx.Response {
	h := headers()
	h.Set("Location", location)
	return &httpx.Response{Status: http.StatusFound, Header: h, Body: httpx.Stream(func(w http.ResponseWriter) error {
		w.WriteHeader(http.StatusFound)
		return nil
	})}
}

// Failed tells people what is wrong. What has no words for them is an error as for programs.
func (p *Pages) Failed(err error) (any, error) {
	known := matrixerr.From(err)
	if known.HTTP == http.StatusInternalServerError {
		return nil, err
	}
	return p.Page(known.HTTP, "failed", known.Msg), nil
}

// Form is the body of a form.
func Form(r *httpx.Request) (url.Values, error) {
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
