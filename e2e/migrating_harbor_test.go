package e2e_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMigratingHarbor is the document for Harbor with docker-compose: Harbor's
// files where its installer puts them, its environment, its tokens and what
// stands in front. Everybody talks to https://harbor.example.com:4443.
func TestMigratingHarbor(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.postgres()
	m.run(`
		echo 127.0.0.1 harbor.example.com notarysigner postgresql >>/etc/hosts
		echo 127.0.0.2 notary-server >>/etc/hosts`)
	installHarbor(t, m)
	m.run(`
		/opt/e2e/tokenservice -config=/opt/harbor/core.json >/var/log/core.log 2>&1 </dev/null &
		COUNTERSIGN_E2E_NGINX="127.0.0.1:4443 /data/secret/cert/server.crt /data/secret/cert/server.key http://notary-server:4443" \
			/opt/e2e/e2e.test >/var/log/front.log 2>&1 </dev/null &
		cd /opt/harbor
		docker-compose up -d notary-signer`)
	m.listens("notarysigner/7899") // upstream's server does not wait for it
	m.run("cd /opt/harbor; docker-compose up -d notary-server")
	for _, address := range []string{"notary-server/4443", "harbor.example.com/4443", "harbor.example.com/443"} {
		m.listens(address)
	}
	r := &walkthrough{t: t, machine: m, kind: "harbor", settings: settingsOf(t, "harbor")}
	r.seed()
	r.follow([]string{"settings", "backup", "look", "look-db", "look-certificate", "certificate", "take-server", "take-signer", "check", "back-signer", "back-server", "drop"}, r.way())
	r.run("grep -q '" + notAuthenticated + "' /var/log/notary-signer.log")
}

// harborCompose are the lines of Harbor's docker-compose.yml that are about
// Notary.
const harborCompose = `version: '2.3'
services:
  notary-server:
    image: goharbor/notary-server-photon:v2.5.3
    container_name: notary-server
    restart: always
    networks:
      - notary-sig
      - harbor-notary
    dns_search: .
    volumes:
      - ./common/config/notary:/etc/notary:z
      - type: bind
        source: /data/secret/notary/notary-signer-ca.crt
        target: /etc/notary/notary-signer-ca.crt
      - type: bind
        source: /data/secret/registry/root.crt
        target: /etc/notary/root.crt
    env_file:
      - ./common/config/notary/server_env
    depends_on:
      - postgresql
      - notary-signer
  notary-signer:
    image: goharbor/notary-signer-photon:v2.5.3
    container_name: notary-signer
    restart: always
    networks:
      harbor-notary:
      notary-sig:
        aliases:
          - notarysigner
    dns_search: .
    volumes:
      - ./common/config/notary:/etc/notary:z
      - type: bind
        source: /data/secret/notary/notary-signer.crt
        target: /etc/notary/notary-signer.crt
      - type: bind
        source: /data/secret/notary/notary-signer.key
        target: /etc/notary/notary-signer.key
    env_file:
      - ./common/config/notary/signer_env
    depends_on:
      - log
      - postgresql
networks:
  notary-sig:
    external: false
`

// installHarbor lays out what Harbor's installer does, as far as Notary sees it.
func installHarbor(t *testing.T, m *machine) {
	t.Helper()
	ca := newAuthority(t, t.TempDir())
	ca.issue(t, "harbor", "harbor.example.com")
	ca.issue(t, "notarysigner", "notarysigner")
	// Its certificate has no subject, as Harbor's has none.
	tokens := &tokenService{dir: t.TempDir()}
	tokens.makeKey(t, "root", newRSA(t), time.Hour)
	for name, from := range map[string]string{
		"/etc/docker/certs.d/harbor.example.com/ca.crt": ca.file("ca.crt"),
		"/data/secret/cert/server.crt":                  ca.file("harbor.crt"),
		"/data/secret/cert/server.key":                  ca.file("harbor.key"),
		"/data/secret/notary/notary-signer-ca.crt":      ca.file("ca.crt"),
		"/data/secret/notary/notary-signer.crt":         ca.file("notarysigner.crt"),
		"/data/secret/notary/notary-signer.key":         ca.file("notarysigner.key"),
		"/data/secret/registry/root.crt":                tokens.file("root.crt"),
		"/data/secret/core/private_key.pem":             tokens.file("root.key"),
	} {
		m.write(name, readText(t, from))
	}
	field := "../internal/config/testdata/field/harbor-2.0"
	for _, which := range []string{"server", "signer"} {
		config := readText(t, filepath.Join(field, which+"-config.postgres.json"))
		for _, change := range [][2]string{
			{"harbor_notary:s!crit,(x)@db.example.com:5432/notary_" + which, which + ":password@postgresql:5432/notary" + which},
			{"https://harbor.example.com:8443/", "https://harbor.example.com/"},
		} {
			config = strings.Replace(config, change[0], change[1], 1)
		}
		if !strings.Contains(config, "@postgresql:5432/notary"+which) {
			t.Fatalf("the database is not in Harbor's configuration:\n%s", config)
		}
		m.write("/opt/harbor/common/config/notary/"+which+"-config.postgres.json", config+"\n")
	}
	m.write("/opt/harbor/common/config/notary/server_env",
		"MIGRATIONS_PATH=migrations/server/postgresql\nDB_URL=postgres://server:password@postgresql:5432/notaryserver?sslmode=disable\n")
	m.write("/opt/harbor/common/config/notary/signer_env", "NOTARY_SIGNER_DEFAULTALIAS=XoGYWZ7f\n"+
		"MIGRATIONS_PATH=migrations/signer/postgresql\nDB_URL=postgres://signer:password@postgresql:5432/notarysigner?sslmode=disable\n")
	m.write("/data/secret/keys/defaultalias", "XoGYWZ7f\n")
	m.write("/opt/harbor/docker-compose.yml", harborCompose)
	core, err := json.Marshal(object{
		"addr": "127.0.0.1:443", "tls": object{"cert": "/data/secret/cert/server.crt", "key": "/data/secret/cert/server.key"},
		"issuer": tokenIssuer, "services": object{notaryService: object{"host": true}},
		"keys": object{"default": object{"cert": "/data/secret/registry/root.crt", "key": "/data/secret/core/private_key.pem"}},
		"users": object{"admin": object{"password": "Harbor12345", "projects": object{
			"library": []string{"pull", "push", "delete", "scanner-pull", "manage"}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.write("/opt/harbor/core.json", string(core)+"\n")
}
