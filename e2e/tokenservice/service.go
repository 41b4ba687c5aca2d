package main

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"strings"
	"sync"
	"time"
)

// tokenLife is Harbor's default.
const tokenLife = 30 * time.Minute

// maxForm bounds the body of a POST.
const maxForm = 64 << 10

// A service answers requests for tokens.
type service struct {
	config
	keys map[string]*key

	mu      sync.Mutex        // guards refresh
	refresh map[string]string // refresh token to user name
}

func newService(cfg config) (*service, error) {
	s := &service{config: cfg, keys: map[string]*key{}, refresh: map[string]string{}}
	for name, files := range cfg.Keys {
		k, err := loadKey(files)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", name, err)
		}
		s.keys[name] = k
	}
	if s.keys["default"] == nil {
		return nil, fmt.Errorf("no key is named %q", "default")
	}
	return s, nil
}

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/service/token", "/with/{words}/service/token"} {
		mux.HandleFunc("GET "+path, s.byGet)
		mux.HandleFunc("POST "+path, s.byPost)
	}
	return mux
}

// An asking is a request for a token, whichever way it came.
type asking struct {
	style   style
	service string
	scopes  []string
	user    string // "" is anonymous
	offline bool   // a refresh token is wanted too
}

// byGet is the older way. As with Harbor, who gives a wrong password is taken
// for nobody, and refused only if it is a login: one that asks for no scope.
func (s *service) byGet(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	a := asking{service: q.Get("service"), scopes: q["scope"], offline: q.Get("offline_token") == "true"}
	name, password, given := r.BasicAuth()
	if given && s.knows(name, password) {
		a.user = name
	}
	if a.user == "" && len(a.scopes) == 0 {
		refuse(w, http.StatusUnauthorized, "who are you?")
		return
	}
	s.answer(w, r, a)
}

// byPost is OAuth's way, which docker takes when it has a refresh token.
func (s *service) byPost(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		refuse(w, http.StatusBadRequest, "the form cannot be read")
		return
	}
	f := r.PostForm
	a := asking{service: f.Get("service"), scopes: strings.Fields(f.Get("scope")), offline: f.Get("access_type") == "offline"}
	switch f.Get("grant_type") {
	case "password":
		if s.knows(f.Get("username"), f.Get("password")) {
			a.user = f.Get("username")
		}
	case "refresh_token":
		s.mu.Lock()
		a.user = s.refresh[f.Get("refresh_token")]
		s.mu.Unlock()
	default:
		refuse(w, http.StatusBadRequest, "grant_type is password or refresh_token")
		return
	}
	if a.user == "" {
		refuse(w, http.StatusUnauthorized, "who are you?")
		return
	}
	s.answer(w, r, a)
}

func (s *service) knows(name, password string) bool {
	u, ok := s.Users[name]
	return ok && password != "" && subtle.ConstantTimeCompare([]byte(u.Password), []byte(password)) == 1
}

// A response is both of a GET, which has the token, and of a POST, which has the
// access token.
type response struct {
	Token        string    `json:"token,omitempty"`
	AccessToken  string    `json:"access_token,omitempty"`
	RefreshToken string    `json:"refresh_token,omitempty"`
	ExpiresIn    int       `json:"expires_in"`
	IssuedAt     time.Time `json:"issued_at"`
}

func (s *service) answer(w http.ResponseWriter, r *http.Request, a asking) {
	var err error
	if a.style, err = s.parseStyle(r.PathValue("words")); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if _, ok := s.Services[a.service]; !ok {
		refuse(w, http.StatusBadRequest, "Unable to handle service: "+a.service)
		return
	}
	now := time.Now()
	access := s.access(a)
	token, err := s.token(a, access, now)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	resp := response{Token: token, ExpiresIn: int(tokenLife / time.Second), IssuedAt: now.UTC()}
	if r.Method == http.MethodPost {
		resp.Token, resp.AccessToken = "", token
	}
	if a.offline && a.style.refresh {
		resp.RefreshToken = rand.Text()
		s.mu.Lock()
		s.refresh[resp.RefreshToken] = a.user
		s.mu.Unlock()
	}
	// The tests read this line. It holds no secret.
	log.Printf("%s %s user=%q service=%s scopes=%v access=%v", r.Method, r.URL.Path, a.user, a.service, a.scopes, access)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(resp) // a client that has gone is no fault
}

// refuse answers as distribution does, so that clients print the text.
func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	code := "UNAUTHORIZED"
	if status != http.StatusUnauthorized {
		code = "UNKNOWN"
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": text}}})
}
