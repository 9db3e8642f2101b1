# Compress every NAME.onnx that has a NAME.calib.npz beside it: make -f compress.mk [OUT=folder] [FLAGS='--max-size-ratio 35%'] [-j2]
# OUT/NAME.d names every file that was read, external data and all: when one of them changes, that model is made again, and no other.
# Every run writes OUT/NAME.json, so Make goes by that. OUT/NAME.onnx keeps its time when its content is the same as before:
# what you make from it (an engine, a container image) is then not made again.
QCOMPRESS ?= qcompress
OUT ?= compressed
FLAGS ?=

NAMES := $(patsubst %.calib.npz,%,$(wildcard *.calib.npz))

.PHONY: all
.DELETE_ON_ERROR:
all: $(NAMES:%=$(OUT)/%.onnx)

$(NAMES:%=$(OUT)/%.onnx): %.onnx: %.json ;

$(NAMES:%=$(OUT)/%.json): $(OUT)/%.json: %.onnx | $(OUT)
	$(QCOMPRESS) compress $< -o $(@:.json=.onnx) --data $*.calib.npz --report $@ --depfile $(@:.json=.d) --quiet --discard-on-fail $(FLAGS)

$(OUT):
	mkdir -p $@

-include $(NAMES:%=$(OUT)/%.d)
