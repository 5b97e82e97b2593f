#!/usr/bin/env bash
# Lints protos and Go with the pinned tools.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/.cache/bin:$PATH
[ -d proto/third_party ] || tools/gen.sh
(cd tools/lint && GOWORK=off go build -o "$OLDPWD/.cache/bin/" tool)
buf lint
golangci-lint run --allow-serial-runners ./...
(cd sdk/go && golangci-lint run --allow-serial-runners --config ../../.golangci.yml ./...)
