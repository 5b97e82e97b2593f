#!/usr/bin/env bash
# Generates all code from proto/: builds the pinned tools, lays out the third-party protos, runs buf.
set -euo pipefail
cd "$(dirname "$0")/.."

export GOWORK=off # the tools' modules are not part of the workspace
bin=$PWD/.cache/bin
mkdir -p "$bin"
(cd tools/gen && go build -o "$bin/" tool)
(cd tools/buf && go build -o "$bin/" tool)
export PATH=$bin:$PATH

# Protos of others come out of the modules that tools/gen pins.
third=proto/third_party
rm -rf "$third"
mkdir -p "$third/buf/validate" "$third/google/api"
moddir() { (cd tools/gen && go list -m -f '{{.Dir}}' "$1"); }
(cd tools/gen && go mod download github.com/bufbuild/protovalidate github.com/google/gnostic)
install -m 644 "$(moddir github.com/bufbuild/protovalidate)/proto/protovalidate/buf/validate/validate.proto" "$third/buf/validate/"
for f in annotations http; do
	install -m 644 "$(moddir github.com/google/gnostic)/cmd/protoc-gen-openapi/examples/google/api/$f.proto" "$third/google/api/"
done

rm -rf sdk/go/gen pkg/gen services/gateway/internal/rest/gen
mkdir -p services/gateway/internal/rest/gen
buf generate
buf generate --template buf.gen.rest.yaml

GOWORK='' go run ./services/gameinstance/internal/instance/statedoc > docs/instance-states.md.new
mv docs/instance-states.md.new docs/instance-states.md
