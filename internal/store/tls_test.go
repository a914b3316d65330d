package store

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
)

// authority signs the certificates of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	c := a.sign(t, template)
	a.cert, a.key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, parentKey := a.cert, a.key
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestTLS(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	server := ca.sign(t, &x509.Certificate{
		DNSNames: []string{"store.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	client := ca.sign(t, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	cfg := testConfig(t)
	link := clickhousetest.NewLink(t, cfg.Addrs[0], &tls.Config{
		Certificates: []tls.Certificate{server}, ClientCAs: ca.pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	})
	tests := []struct {
		name string
		tls  *tls.Config
		want []string // empty: it works
	}{
		{"by address", &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{client}}, nil},
		{"by name", &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{client}, ServerName: "store.example"}, nil},
		{"another name", &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{client}, ServerName: "other.example"}, []string{"certificate", "other.example", "--clickhouse-server-name"}},
		{"unknown authority", &tls.Config{RootCAs: stranger.pool, Certificates: []tls.Certificate{client}}, []string{"certificate", "--clickhouse-ca"}},
		{"no certificate of ours", &tls.Config{RootCAs: ca.pool}, []string{"--clickhouse-cert"}},
		{"no TLS at all", nil, []string{link.Addr()}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			with := cfg
			with.Addrs, with.TLS = []string{link.Addr()}, tt.tls
			with.Database = clickhousetest.Database(t)
			s, err := Open(t.Context(), with)
			if err == nil {
				t.Cleanup(func() { _ = s.Close() })
			}
			if tt.want != nil {
				wantError(t, err, tt.want...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			mustInsert(t, s, "a", connections(10, noon)...)
			wantStored(t, s, 10)
		})
	}
}
