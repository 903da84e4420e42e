#!/usr/bin/env bash
# Reproduce the results of docs/results.md, one row or all.
#
#   launch/reproduce.sh DATA [ROW[@SEED] ...]        launch/reproduce.sh ../data deep deep@1 deep@2
#
# DATA holds mnist/ (the four IDX files), 20news/ (see newsgroups.py), adbench/ (.npz files of
# ADBench), and series/ (nab_*.npz, see nab.py, and ecg200.npz). Each row takes at most 30 minutes on 2 cores; few_labels
# begins with the first encoder of row contractive, idec with row clustering_mnist, and generation_* take the features of row classifier. A stopped row resumes; a finished one takes
# seconds. Each row's numbers, seed, seconds of a model and command are appended to runs/reproduced.json ($REPRODUCED to
# change). Rows of three seeds give METRIC_std, the sample deviation, too.
set -euo pipefail
cd "$(dirname "$0")/.."

data=${1:?usage: launch/reproduce.sh DATA [ROW ...]}
shift
mnist="idx:$data/mnist"
news="npz:runs/reproduce/20news_2000.npz"  # made from DATA/20news, with the number of words in its name
all="npz:runs/reproduce/mnist_all.npz"  # made from DATA/mnist: all 70,000 images to train and to measure
deep_mnist="--config.model.encoder.norm=none --config.model.encoder.widths=500,250 --config.train.batch_size=250 --config.train.epochs=24 --config.train.eval_epochs=8"
python=${PYTHON:-python}
seeds="--config.population.seeds=3"  # for rows whose three seeds fit 30 minutes; the others take ROW@1, ROW@2

# name | numbers that docs/results.md reports | command line after `python -m aejax.main`
rows="
linear        | test/squared_error test/pca_angle | --config=configs/linear.py:$mnist $seeds
vae           | test/elbo | --config=configs/vae.py:$mnist $seeds
deep          | test/squared_error | --config=configs/deep.py:$mnist
sparse        | test/mean_activation test/activation_p5 test/activation_p95 test/squared_error | --config=configs/sparse.py:$mnist $seeds
k_sparse      | test/probe_error test/dead_units | --config=configs/k_sparse.py:$mnist $seeds
denoising     | test/probe_error test/psnr test/input_psnr | --config=configs/denoising.py:$mnist $seeds
contractive   | test/probe_error test/jacobian_norm | --config=configs/contractive.py:$mnist $seeds
contractive_0 | test/probe_error test/jacobian_norm | --config=configs/contractive.py:$mnist --config.objective.contractive.weight=0 $seeds
conv          | test/reconstruction | --config=configs/conv.py:$mnist
cvae          | test/elbo test/kl | --config=configs/inpainting_cvae.py:$mnist $seeds
stacked        | test/error | --config=configs/stacked.py:$mnist
stacked_frozen | test/error | --config=configs/stacked.py:$mnist --config.finetune.freeze=true --config.model.encoder.dropout=0 --config.optim.learning_rate=2e-2
stacked_random | test/error | --config=configs/stacked.py:$mnist --config.pretrain.widths=() --config.model.encoder.widths=200, --config.model.bottleneck.size=200
stacked_denoising | test/error | --config=configs/stacked_denoising.py:$mnist
stacked_denoising_random | test/error | --config=configs/stacked_denoising.py:$mnist --config.pretrain.widths=() --config.model.encoder.widths=1000,1000 --config.model.bottleneck.size=1000
few_labels     | pretrained_100/error random_100/error pretrained_1000/error random_1000/error pretrained_3000/error random_3000/error | --config=configs/finetune.py:$mnist --config.init_from=runs/reproduce/contractive/members/0
text          | test/precision_at_10 test/precision_at_100 test/lsa_precision_at_10 test/lsa_precision_at_100 | --config=configs/text.py:$news --config.uses.run=retrieval, $seeds
text_5000     | test/precision_at_10 test/precision_at_100 test/lsa_precision_at_10 test/lsa_precision_at_100 | --config=configs/text.py:${news/2000/5000} --config.uses.run=retrieval, --config.model.encoder.widths=2000,500,250,125 --config.train.epochs=20
retrieval     | retrieval/precision_at_100 retrieval/map retrieval/bits_64/precision_at_100 retrieval/bits_64/map retrieval/pixels/precision_at_100 retrieval/pixels/map retrieval/pca/precision_at_100 retrieval/pca/map retrieval/bits_64/pca_itq/precision_at_100 retrieval/bits_64/pca_itq/map | --config=configs/retrieval.py:$mnist --config.uses.retrieval.queries=2000
retrieval_256 | retrieval/precision_at_100 retrieval/map retrieval/bits_256/precision_at_100 retrieval/bits_256/map retrieval/bits_256/pca_itq/precision_at_100 retrieval/bits_256/pca_itq/map | --config=configs/retrieval.py:$mnist --config.uses.retrieval.queries=2000 --config.uses.retrieval.bits=256, --config.model.encoder.widths=1000,500 --config.model.decoder.widths=() --config.model.bottleneck.size=256
hashing       | retrieval/bits_32/precision_at_100 retrieval/bits_64/precision_at_100 retrieval/bits_128/precision_at_100 retrieval/bits_32/lsa_itq/precision_at_100 retrieval/bits_64/lsa_itq/precision_at_100 retrieval/bits_128/lsa_itq/precision_at_100 | --config=configs/hashing.py:${news/2000/5000_tfidf} $seeds
clustering    | clustering/gmm/ari clustering/gmm/acc clustering/gmm/nmi clustering/kmeans/ari clustering/hdbscan/ari clustering/hdbscan/noise clustering/pixels/gmm/ari clustering/pixels/kmeans/ari clustering/pca/gmm/ari clustering/pca/kmeans/ari | --config=configs/clustering.py
clustering_mnist | clustering/kmeans/acc clustering/n2d/acc clustering/n2d/nmi clustering/n2d/ari | --config=configs/clustering.py:$all $deep_mnist --config.pair.denoise.level=0.2 --config.optim.learning_rate=2e-3 --config.uses.clustering.scale=none --config.uses.clustering.methods=kmeans,n2d --config.uses.clustering.rows=70000 --config.uses.clustering.restarts=20
idec          | clustering/centres/acc clustering/centres/nmi clustering/centres/ari clustering/kmeans/acc | --config=configs/idec.py:$all $deep_mnist --config.init_from=runs/reproduce/clustering_mnist --config.init_from_parts=encoder,decoder --config.method.clustering.start_epochs=0 --config.method.clustering.initial=kmeans --config.method.clustering.width=0.25 --config.method.clustering.gamma=80 --config.optim.learning_rate=5e-4 --config.train.epochs=6 --config.uses.clustering.methods=centres,kmeans --config.uses.clustering.rows=70000 --config.uses.clustering.restarts=3
restoration   | restoration/gain restoration/psnr restoration/ssim restoration/gaussian/psnr restoration/gaussian/ssim restoration/gaussian/width restoration/median/psnr restoration/median/ssim restoration/input/psnr restoration/input/ssim | --config=configs/restoration.py:$mnist --config.uses.restoration.examples=10000
restoration_short | restoration/gain restoration/psnr restoration/ssim restoration/gaussian/psnr restoration/gaussian/ssim restoration/median/psnr restoration/median/ssim restoration/input/psnr | --config=configs/restoration.py:$mnist --config.uses.restoration.examples=10000 --config.train.steps=1400 --config.data.validation_fraction=0.1
manifold      | manifold/log_likelihood manifold/standard_error manifold/local_pca/log_likelihood manifold/local_pca/standard_error manifold/isotropic/log_likelihood manifold/isotropic/standard_error manifold/dimension manifold/translation manifold/local_pca/translation manifold/between manifold/line/between manifold/blend/between | --config=configs/manifold.py:$mnist
intrinsic_dimension | sphere_model swiss_roll_model circles_model sphere_two_nn swiss_roll_two_nn circles_two_nn sphere_mle swiss_roll_mle circles_mle sphere_local_pca swiss_roll_local_pca circles_local_pca | launch/intrinsic_dimension.py
lossless      | compression/bits_per_pixel compression/elbo_bits_per_pixel compression/overhead compression/gzip/bits_per_pixel compression/bz2/bits_per_pixel compression/xz/bits_per_pixel compression/png/bits_per_pixel compression/compress_seconds compression/decompress_seconds | --config=configs/lossless.py:$mnist
lossy         | compression/file_ratio compression/equal_error/bits_per_pixel compression/pca/equal_error/bits_per_pixel compression/model_bytes compression/pca/model_bytes | --config=configs/lossy.py:$mnist --config.data.validation_fraction=0.1
nested_dropout | compression/file_ratio compression/equal_error/bits_per_pixel compression/pca/equal_error/bits_per_pixel compression/units_4/squared_error compression/units_8/squared_error compression/units_16/squared_error compression/units_32/squared_error | --config=configs/nested_dropout.py:$mnist --config.data.validation_fraction=0.1
one_class     | aejax KNN PCA | launch/one_class.py $data/mnist
adbench       | aejax KNN PCA flagged_normal | launch/adbench.py $data/adbench --halves
nab           | aejax aejax_std PCA KNN time random | launch/nab.py $data/series
nab_whole     | aejax aejax_std PCA KNN time random | launch/nab.py $data/series --whole
ecg200        | anomaly/auroc anomaly/pca/auroc anomaly/knn/auroc | --config=configs/series_anomaly.py:npz:$data/series/ecg200.npz --config.data.train_labels=1, --config.train.batch_size=32 $seeds
dates         | sequence/exact_match sequence/token_error sequence/bleu sequence/copy/exact_match sequence/frequent/exact_match | --config=configs/dates.py $seeds
captions      | sequence/one/exact_match sequence/two/exact_match sequence/exact_match sequence/bleu sequence/nearest/exact_match sequence/frequent/exact_match | --config=configs/captions.py
video         | forecast/squared_error forecast/seen_squared_error forecast/last/squared_error forecast/mean/squared_error forecast/nearest/squared_error | --config=configs/video.py
text_2d       | test/precision_at_10 test/precision_at_100 test/lsa_precision_at_10 test/lsa_precision_at_100 | --config=configs/text.py:$news --config.uses.run=retrieval, --config.model.bottleneck.size=2 $seeds
"

# How many epochs of fine-tuning a squared error takes, from a stack of Boltzmann machines and from random weights.
random="--config.pretrain.widths=() --config.model.encoder.widths=1000,500,250 --config.model.bottleneck.size=30"
for epochs in 10 25 50 100; do
  flags="--config=configs/stacked_rbm.py:$mnist --config.train.epochs=$epochs"
  rows+="rbm_$epochs | test/squared_error | $flags
rbm_random_$epochs | test/squared_error | $flags $random
"
done

# FID of samples from densities of the codes, by the features of one classifier.
fid=
for sampler in prior gaussian gmm kde flow test_split pca/gaussian pca/gmm; do fid+=" generation/$sampler/fid"; done
rows+="classifier | test/error | --config=configs/classifier.py:$mnist
"
for name in ae vae code_l2; do
  rows+="generation_$name |$fid | --config=configs/$name.py:$mnist --config.uses.run=generation, \
--config.uses.generation.samples=5000 --config.uses.generation.features=runs/reproduce/classifier
"
done

record='
import json, pathlib, shlex, sys
row, names, workdir, out, *command = sys.argv[1:]
results = json.loads((pathlib.Path(workdir) / "results.json").read_text())
config = pathlib.Path(workdir) / "config.json"
seed = json.loads(config.read_text())["seed"] if config.exists() else 0
own = [key for n in names.split() for key in (n, n + "_std") if key in results or key == n]
entry = {"row": row, **{key: results[key] for key in own}, "members": results.get("members", 1), "seed": seed,
         "seconds": round(results["seconds"], 1), "command": shlex.join(command)}
out = pathlib.Path(out)
entries = json.loads(out.read_text()) if out.exists() else []
if entry not in entries:
    entries.append(entry)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(entries, indent=1))
    temporary.replace(out)
print(json.dumps(entry))
'

known=$(sed -n 's/ *|.*//p' <<<"$rows")
for row in "$@"; do
  grep -qx "${row%@*}" <<<"$known" || { echo "reproduce: no row '$row'; rows:" $known >&2; exit 2; }
  [[ $row =~ ^[^@]*(@[0-9]+)?$ ]] || { echo "reproduce: '$row': a seed is a whole number, as in deep@1" >&2; exit 2; }
done

out=${REPRODUCED:-runs/reproduced.json}
mkdir -p "$(dirname "$out")"
for row in ${*:-$known}; do
  IFS='|' read -r _ names flags < <(grep -E "^${row%@*} +\|" <<<"$rows")
  module="-m aejax.main"
  [[ $flags != *launch/* ]] || module=
  [[ $row != *@* ]] || flags+=" --config.seed=${row#*@}"
  folder=mnist
  [[ $flags =~ npz:([^ ]*_([0-9]+)(_tfidf)?\.npz) ]] && folder=20news
  [[ $flags != *adbench* ]] || folder=adbench
  [[ $flags != *$data/series* ]] || folder=series
  [ -d "$data/$folder" ] || { echo "reproduce: no folder $data/$folder" >&2; exit 2; }
  # shellcheck disable=SC2086  # no argument if there is no _tfidf
  [ $folder != 20news ] || "$python" launch/newsgroups.py "$data/20news" "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" ${BASH_REMATCH[3]#_}
  [[ $flags != *$all* ]] || "$python" launch/mnist_all.py "$data/mnist"
  read -ra command <<<"$python $module $flags --workdir=runs/reproduce/$row"
  echo "== $row: ${command[*]}"
  "${command[@]}"
  "$python" -c "$record" "$row" "$names" "runs/reproduce/$row" "$out" "${command[@]}"
done
