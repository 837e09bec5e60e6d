VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: book test serve notebooks clean

book: $(READY)
	@$(BIN)/python -m transferlab build

test: $(READY)
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadscope --no-loadscope-reorder

serve: book
	@$(BIN)/python -m transferlab serve

notebooks: $(READY)
	@mkdir -p _build/notebooks
	@for page in notebooks/*.md $$(grep -l '{code-cell}' book/*.md); do $(BIN)/python -m jupytext --quiet --to ipynb --output _build/notebooks/$$(basename $$page .md).ipynb $$page; done
	@echo "notebooks are in _build/notebooks"

clean:
	rm -rf _build

$(READY): pyproject.toml constraints.txt
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@python3 -m venv $(VENV) || (echo "python3 -m venv failed; on Debian: apt-get install python3-venv" && exit 1)
	@echo "setting up $(VENV): PyTorch is large, this takes a few minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[book,test]"
	@touch $(READY)
