# Prints what zsh would offer for a line: zsh -f complete.zsh SCRIPT LINE
# zsh completes in its line editor alone, so that one runs in a pseudo-terminal and every match is printed as it is added.
zmodload zsh/zpty
zpty z zsh -f -i
() {
    zpty -w z source $1
    repeat 20; do
        zpty -r z line
        [[ $line == *ready* ]] && return
    done
    print -u2 'the shell did not start'
    exit 2
} =(print -r -- "
PROMPT=
autoload -Uz compinit
compinit -u -D
source ${(q)1}
bindkey '^M' undefined
bindkey '^J' undefined
bindkey '^I' complete-word
null-line () { echo -E - \$'\0' }
compprefuncs=(null-line)
comppostfuncs=(null-line exit)
zstyle ':completion:*' insert-tab false
compadd () {
    if [[ \${@[1,(i)(-|--)]} == *-(O|A|D)\\ * ]]; then
        builtin compadd \"\$@\"
        return
    fi
    typeset -a hits
    builtin compadd -A hits \"\$@\"
    (( \$#hits )) && print -rl -- \$hits
}
print ready")
zpty -w z "$2"$'\t'
integer inside=0
while zpty -r z; do :; done | while IFS= read -r line; do
    if [[ $line == *$'\0\r' ]]; then
        (( inside++ )) && exit 0
        continue
    fi
    (( inside )) && print -r -- ${line%$'\r'}
done
