// Package kube calls the API server of a Kubernetes cluster: who calls, where, and what its refusals mean. Which objects are called for, its users know.
package kube

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// Where a Pod finds its cluster.
const (
	envHost   = "KUBERNETES_SERVICE_HOST"
	envPort   = "KUBERNETES_SERVICE_PORT"
	podFiles  = "/var/run/secrets/kubernetes.io/serviceaccount/"
	podCAFile = podFiles + "ca.crt"
	podToken  = podFiles + "token"
)

// Config says which cluster it is, and who calls. The zero value is the cluster that this process is a Pod of, with the Pod's own service account.
type Config struct {
	// URL is the base URL of the API server. Default: that of the cluster that the process is a Pod of.
	URL string `yaml:"url"`
	// CAFile has the certificates of the authorities that sign the API server's. Default, without a URL: the Pod's own; else the system's authorities.
	CAFile string `yaml:"ca_file"`
	// TokenFile has a bearer token, and is read for each call. Default, without a URL: the Pod's own.
	TokenFile hostapi.SecretFile `yaml:"token_file"`
	// CertFile and KeyFile have a client certificate, in place of a token. They are read for each connection.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// complete fills in what a Pod finds in its environment.
func (c Config) complete() (Config, error) {
	if c.URL != "" {
		return c, nil
	}
	host, port := os.Getenv(envHost), os.Getenv(envPort)
	if host == "" || port == "" {
		return c, errors.New("url: is needed, such as https://203.0.113.7:6443: this process is no Pod of a cluster, whose own it would be")
	}
	c.URL = "https://" + net.JoinHostPort(host, port)
	if c.CAFile == "" {
		c.CAFile = podCAFile
	}
	if c.TokenFile == "" && c.CertFile == "" {
		c.TokenFile = podToken
	}
	return c, nil
}

func (c Config) check() error {
	if err := hostapi.CheckURL(c.URL); err != nil {
		return fmt.Errorf("url: %w", err)
	}
	switch {
	case (c.CertFile == "") != (c.KeyFile == ""):
		return errors.New("cert_file, key_file: one needs the other")
	case c.CertFile != "" && c.TokenFile != "":
		return errors.New("token_file, cert_file: there is one caller; set one of them")
	case c.CertFile != "":
		if _, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile); err != nil {
			return fmt.Errorf("cert_file, key_file: %w", err)
		}
		return nil
	}
	if _, err := c.TokenFile.Read(); err != nil {
		return fmt.Errorf("token_file: %w", err)
	}
	return nil
}

// tls returns how connections are made.
func (c Config) tls() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s has no certificate (PEM)", c.CAFile)
		}
	}
	if c.CertFile != "" {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("cert_file, key_file: %w", err)
			}
			return &cert, nil
		}
	}
	return conf, nil
}
