#!/usr/bin/env bash
# Builds a real API server of Kubernetes and its etcd into .cache/kubernetes, once: minutes of CPU, and 100 MB. Then plays on it the tests of the providers kubernetes and agones, and whole matches.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/.cache/kubernetes
version=$(sed -n 's|^\tk8s.io/kubernetes \(v[^ ]*\).*|\1|p' tools/kubernetes/go.mod)
if [ "$(cat "$out/version" 2>/dev/null)" != "$version" ]; then
  mkdir -p "$out"
  (cd tools/kubernetes && export GOWORK=off &&
    go build -o "$out/etcd" go.etcd.io/etcd/server/v3 &&
    go build -ldflags "-X k8s.io/component-base/version.gitVersion=$version" -o "$out/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver)
  echo "$version" > "$out/version"
fi
KUBEBUILDER_ASSETS=$out go test -v -count=1 -p 1 -run "RealAPIServer" ./services/allocation/providers/kubernetes ./services/allocation/providers/agones ./test/kubernetes
