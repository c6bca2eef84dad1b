# What test-flickr.sh, test-nus.sh and test-mscoco.sh share:  source ./run.sh DATASET TASK [settings of ICMR.py]
set -eu
dataset=$1 task=$2
shift 2
source ./env.sh

data_dir=data explicit=no previous=
for argument in "$@"; do
    case $argument in
        --dataset | --dataset=*) explicit=yes ;;
        --data_dir=*) data_dir=${argument#*=} ;;
    esac
    if [ "$previous" = --data_dir ]; then data_dir=$argument; fi
    previous=$argument
done

here=no
shopt -s nocasematch  # ICMR.py ignores case, too
for entry in "$data_dir"/*; do
    if [[ ${entry##*/} == "$dataset" ]]; then here=yes; fi
done
shopt -u nocasematch

if [ $explicit = no ] && [ $here = no ]; then
    cat <<EOM
$dataset is not here: there is no folder $data_dir/$dataset. Put its features there as train.pkl, query.pkl and
retrieval.pkl (UCMFH's release) or as one $dataset.h5, $dataset.mat or $dataset.npz; data/README.md says where to get
them and how they are laid out. This run uses the OpenMoji data set that comes with the code instead. Its numbers are
OpenMoji's: they are not $dataset's and can't be compared with published ones.

EOM
    dataset=openmoji data_dir=data
    set -- "$@" --data_dir data
fi

exec "$PYTHON" ICMR.py --dataset "$dataset" --task "$task" "$@"
