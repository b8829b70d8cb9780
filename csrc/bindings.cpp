// The Python side of the native core, and the only file that knows pybind11. Tensors arrive as addresses and
// sizes: embedtrain/ops.py has checked their type, shape and layout, and keeps them alive. Work runs without
// the GIL.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bfloat16.h"
#include "corpus/encoder.h"
#include "corpus/scan.h"
#include "corpus/spill.h"
#include "cpu/dispatch.h"
#include "sampling/tables.h"
#include "vectors/number.h"
#include "vectors/parser.h"
#include "vectors/rows.h"
#include "vectors/subwords.h"
#ifdef EMBEDTRAIN_CUDA
#include "cuda/device.h"
#include "cuda/sgns.h"
#endif

namespace py = pybind11;
using namespace embedtrain;

namespace {

using WithoutGil = py::call_guard<py::gil_scoped_release>;

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

template <class T>
py::array_t<T> to_array(const std::vector<T>& values) {
    return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

// Hands an array over to numpy, which frees it.
template <class Array>
auto give_array(Array&& values) {
    using T = std::remove_reference_t<decltype(values[0])>;
    auto* const owned = new std::decay_t<Array>(std::move(values));
    const py::capsule owner(owned, [](void* p) { delete static_cast<std::decay_t<Array>*>(p); });
    return py::array_t<T>(static_cast<py::ssize_t>(owned->size()), owned->data(), owner);
}

py::object bad_byte(const std::optional<BadByte>& bad) {
    if (!bad) return py::none();
    return py::make_tuple(bad->line, bad->offset, bad->byte);
}

// One text that lies in memory whole; it must be UTF-8.
Encoded encode_buffer(uintptr_t text, size_t bytes, int workers, const Choice& choice) {
    Encoder encoder(workers, Errors::kStrict);
    auto bad = encoder.feed({pointer<const char>(text), bytes});
    if (!bad) bad = encoder.end_file();
    if (bad) {
        throw std::invalid_argument("the text is not UTF-8 at byte " + std::to_string(bad->offset) +
                                    " (line " + std::to_string(bad->line) + ")");
    }
    return encoder.finish(choice);
}

void bind_corpus(py::module_& m) {
    py::register_exception_translator([](std::exception_ptr pointer) {
        try {
            if (pointer) std::rethrow_exception(pointer);
        } catch (const FileError& error) {
            // Python chooses the subclass by the number, and tells the path.
            const py::object os_error = py::reinterpret_borrow<py::object>(PyExc_OSError)(
                error.code().value(), error.code().message(), error.path());
            PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(os_error.ptr())), os_error.ptr());
        }
    });
    py::class_<Encoder>(m, "Encoder")
        .def(py::init([](int workers, const std::string& errors,
                         const std::optional<std::string>& spill_folder, int64_t memory_bytes) {
                 if (workers < 1) throw std::invalid_argument("workers must be at least 1");
                 if (memory_bytes < 1) throw std::invalid_argument("memory_bytes must be at least 1");
                 const Errors how = errors == "replace" ? Errors::kReplace
                                    : errors == "skip"  ? Errors::kSkip
                                                        : Errors::kStrict;
                 return spill_folder ? std::make_unique<Encoder>(workers, how, *spill_folder, memory_bytes)
                                     : std::make_unique<Encoder>(workers, how);
             }),
             py::arg("workers"), py::arg("errors"), py::arg("spill_folder") = py::none(),
             py::arg("memory_bytes") = int64_t{1} << 30)
        .def("feed",
             [](Encoder& self, const py::buffer& chunk) {
                 const py::buffer_info info = chunk.request();
                 const std::string_view text(static_cast<const char*>(info.ptr),
                                             static_cast<size_t>(info.size * info.itemsize));
                 std::optional<BadByte> bad;
                 {
                     py::gil_scoped_release without_gil;
                     bad = self.feed(text);
                 }
                 return bad_byte(bad);
             })
        .def("end_file", [](Encoder& self) { return bad_byte(self.end_file()); })
        .def("spill", &Encoder::spill, WithoutGil())  // for the tests: as if memory were full
        .def(
            "finish",
            [](Encoder& self, int64_t min_count, std::optional<int64_t> max_vocab, const std::string& pad,
               const py::object& lower, const std::optional<std::string>& vocabulary,
               const py::object& on_share) {
                Choice choice;
                choice.min_count = min_count;
                choice.max_words = max_vocab.value_or(INT64_MAX);
                choice.pad_word = pad;
                if (vocabulary) choice.vocabulary = *vocabulary;
                if (!lower.is_none()) {
                    choice.lower = [&lower](const std::string& words) {
                        py::gil_scoped_acquire gil;
                        return lower(py::bytes(words)).cast<std::string>();
                    };
                }
                Tell tell;
                if (!on_share.is_none()) {
                    tell = [&on_share](double share) {
                        py::gil_scoped_acquire gil;
                        on_share(share);
                    };
                }
                Encoded encoded;
                {
                    py::gil_scoped_release without_gil;
                    encoded = self.finish(choice, tell);
                }
                py::dict result;
                result["words"] = py::bytes(encoded.words);
                result["counts"] = give_array(std::move(encoded.counts));
                if (self.folder().empty()) {
                    result["ids"] = give_array(std::move(encoded.ids));
                    result["offsets"] = give_array(std::move(encoded.offsets));
                } else {
                    result["ids"] = self.folder() + "/ids.bin";
                    result["offsets"] = self.folder() + "/offsets.bin";
                }
                result["tokens_read"] = encoded.tokens_read;
                result["lines"] = encoded.lines;
                result["distinct_words"] = encoded.distinct_words;
                result["largest_count"] = encoded.largest_count;
                result["replaced"] = encoded.replaced;
                result["invalid"] = encoded.invalid;
                result["padding"] = encoded.padding;
                result["out_of_vocabulary"] = encoded.out_of_vocabulary;
                return result;
            },
            py::arg("min_count") = 1, py::arg("max_vocab") = py::none(), py::arg("pad") = "",
            py::arg("lower") = py::none(), py::arg("vocabulary") = py::none(),
            py::arg("on_share") = py::none());
    // (words, a word a line, most frequent first; counts)
    m.def("count_words", [](uintptr_t text, size_t bytes, int workers) {
        Encoded encoded;
        {
            py::gil_scoped_release without_gil;
            encoded = encode_buffer(text, bytes, workers, {});
        }
        return py::make_tuple(py::bytes(encoded.words), give_array(std::move(encoded.counts)));
    });
    // (ids of the words in `words`, a word a line; sentence offsets)
    m.def("encode_text", [](uintptr_t text, size_t bytes, const std::string& words, int workers) {
        Encoded encoded;
        {
            py::gil_scoped_release without_gil;
            Choice choice;
            choice.vocabulary = words;
            encoded = encode_buffer(text, bytes, workers, choice);
        }
        return py::make_tuple(give_array(std::move(encoded.ids)), give_array(std::move(encoded.offsets)));
    });
    // For the tests: 64 bytes -> bits of (white space, newlines, NULs), by the portable code or this
    // processor's.
    m.def(
        "scan_text",
        [](const std::string& text, bool portable) {
            if (text.size() != kScanBytes) throw std::invalid_argument("scan_text takes 64 bytes");
            const ScanMasks masks = portable ? scan_portable(text.data()) : scan(text.data());
            return py::make_tuple(masks.space, masks.newline, masks.nul);
        },
        py::arg("text"), py::arg("portable"));
}

void bind_sampling(py::module_& m) {
    m.def(
        "alias_table",
        [](uintptr_t counts, int64_t vocabulary, double exponent, uintptr_t table) {
            alias_table(pointer<int64_t>(counts), vocabulary, exponent, pointer<NoiseColumn>(table));
        },
        WithoutGil());
    m.def(
        "keep_thresholds",
        [](uintptr_t counts, int64_t vocabulary, double sample, uintptr_t thresholds) {
            keep_thresholds(pointer<int64_t>(counts), vocabulary, sample, pointer<uint32_t>(thresholds));
        },
        WithoutGil());
    m.def(
        "draw_negatives",
        [](uintptr_t table, int64_t vocabulary, uint64_t seed, uint32_t epoch, int64_t first_position,
           int64_t n, int negative, uintptr_t negatives) {
            draw_negatives(pointer<NoiseColumn>(table), vocabulary, seed, epoch, first_position, n, negative,
                           pointer<int32_t>(negatives));
        },
        WithoutGil());
    m.def(
        "draw_tokens",
        [](uintptr_t ids, uintptr_t thresholds, uint64_t seed, uint32_t epoch, int64_t first_position,
           int64_t n, int window, uintptr_t kept, uintptr_t widths) {
            draw_tokens(pointer<int32_t>(ids), pointer<uint32_t>(thresholds), seed, epoch, first_position, n,
                        window, pointer<bool>(kept), pointer<int32_t>(widths));
        },
        WithoutGil());
    m.def(
        "initial_weights",
        [](uintptr_t table, int64_t first_row, int64_t rows, int dim, int64_t stride, uint64_t seed) {
            initial_weights(pointer<float>(table), first_row, rows, dim, stride, seed);
        },
        WithoutGil());
}

// What all blocks have, from keyword arguments.
void fill_block(TrainingBlock& block, const py::kwargs& k) {
    block.input = pointer<float>(k["input"].cast<uintptr_t>());
    block.output = pointer<float>(k["output"].cast<uintptr_t>());
    block.stride = k["stride"].cast<int64_t>();
    block.dim = k["dim"].cast<int>();
    block.ids = pointer<int32_t>(k["ids"].cast<uintptr_t>());
    block.tokens = k["tokens"].cast<int64_t>();
    block.offsets = pointer<int64_t>(k["offsets"].cast<uintptr_t>());
    block.sentences = k["sentences"].cast<int64_t>();
    block.first_position = k["first_position"].cast<int64_t>();
    block.keep = pointer<uint32_t>(k["keep"].cast<uintptr_t>());
    block.noise = pointer<NoiseColumn>(k["noise"].cast<uintptr_t>());
    block.vocabulary = k["vocabulary"].cast<int64_t>();
    block.seed = k["seed"].cast<uint64_t>();
    block.epoch = k["epoch"].cast<uint32_t>();
    block.window = k["window"].cast<int>();
    block.negative = k["negative"].cast<int>();
    block.noise_sharers = k["noise_sharers"].cast<int>();
    block.shrink_window = k["shrink_window"].cast<bool>();
    block.alpha = k["alpha"].cast<double>();
    block.alpha_step = k["alpha_step"].cast<double>();
    block.min_alpha = k["min_alpha"].cast<double>();
    block.corpus_size = k["corpus_size"].cast<int64_t>();
}

// Every window of a block, flat: what the tests compare with the reference.
struct WindowList {
    std::vector<int64_t> centres, contexts, context_offsets{0};
    std::vector<int32_t> negatives;
    std::vector<float> rates;
    int negative;

    static void add(void* self, const WindowView& window) {
        WindowList& list = *static_cast<WindowList*>(self);
        list.centres.push_back(window.centre);
        list.contexts.insert(list.contexts.end(), window.contexts, window.contexts + window.context_count);
        list.context_offsets.push_back(static_cast<int64_t>(list.contexts.size()));
        list.negatives.insert(list.negatives.end(), window.negatives, window.negatives + list.negative);
        list.rates.push_back(window.rate);
    }
};

Block cpu_block(const py::kwargs& k) {
    Block block;
    fill_block(block, k);
    block.locked = pointer<bool>(k["locked"].cast<uintptr_t>());
    return block;
}

void bind_cpu(py::module_& m) {
    m.def("available_kernels", [] {
        std::vector<std::string> names;
        for (const Kernel* each : available_kernels()) names.push_back(each->name);
        return names;
    });
    m.def("kernel_name", [] { return kernel().name; });
    m.def(
        "advise_huge_pages",
        [](uintptr_t address, size_t bytes) { advise_huge_pages(pointer<void>(address), bytes); },
        WithoutGil());
    py::class_<Replicas>(m, "Replicas")
        .def(py::init([](uintptr_t input, uintptr_t output, int64_t rows, int64_t stride, int workers) {
            return std::make_unique<Replicas>(pointer<float>(input), pointer<float>(output), rows, stride,
                                              workers);
        }))
        .def("synchronise", &Replicas::synchronise, WithoutGil());
    m.def("train_block",
          [](int64_t begin, int64_t end, const Replicas& replicas, const py::kwargs& arguments) {
              const Block block = cpu_block(arguments);
              Stats stats;
              {
                  py::gil_scoped_release without_gil;
                  stats = train_block(block, begin, end, replicas);
              }
              return py::make_tuple(stats.loss, stats.pairs, stats.centres);
          });
    m.def("list_windows", [](int64_t begin, int64_t end, const py::kwargs& arguments) {
        const Block block = cpu_block(arguments);
        WindowList list;
        list.negative = block.negative;
        {
            py::gil_scoped_release without_gil;
            list_windows(block, begin, end, WindowList::add, &list);
        }
        return py::make_tuple(to_array(list.centres), to_array(list.context_offsets), to_array(list.contexts),
                              to_array(list.negatives), to_array(list.rates));
    });
}

ExchangedRows exchanged_rows(const py::kwargs& k) {
    ExchangedRows rows;
    rows.tables[0] = pointer<float>(k["input"].cast<uintptr_t>());
    rows.tables[1] = pointer<float>(k["output"].cast<uintptr_t>());
    rows.base = pointer<float>(k["base"].cast<uintptr_t>());
    rows.vocabulary = k["vocabulary"].cast<int64_t>();
    rows.stride = k["stride"].cast<int64_t>();
    rows.rows = pointer<const int64_t>(k["rows"].cast<uintptr_t>());
    rows.count = k["count"].cast<int64_t>();
    rows.dim = k["dim"].cast<int>();
    return rows;
}

void bind_exchange(py::module_& m) {
    m.def("take_differences", [](uintptr_t differences, int workers, const py::kwargs& arguments) {
        const ExchangedRows rows = exchanged_rows(arguments);
        const py::gil_scoped_release without_gil;
        take_differences(rows, pointer<uint16_t>(differences), workers);
    });
    m.def("replace_differences", [](uintptr_t differences, uintptr_t sum, uintptr_t weight, int workers,
                                    const py::kwargs& arguments) {
        const ExchangedRows rows = exchanged_rows(arguments);
        const py::gil_scoped_release without_gil;
        replace_differences(rows, pointer<const uint16_t>(differences), pointer<const uint16_t>(sum),
                            pointer<const float>(weight), workers);
    });
}

#ifdef EMBEDTRAIN_CUDA
// All addresses are of the device's memory.
CudaBlock cuda_block(const py::kwargs& k) {
    CudaBlock block;
    fill_block(block, k);
    block.begin = k["begin"].cast<int64_t>();
    block.end = k["end"].cast<int64_t>();
    block.input_damping = pointer<float>(k["input_damping"].cast<uintptr_t>());
    block.output_damping = pointer<float>(k["output_damping"].cast<uintptr_t>());
    block.stats = pointer<double>(k["stats"].cast<uintptr_t>());
    return block;
}
#endif

void bind_cuda(py::module_& m) {
#ifdef EMBEDTRAIN_CUDA
    m.def("cuda_workspace_bytes",
          [](const py::kwargs& arguments) { return cuda_workspace_bytes(cuda_block(arguments)); });
    // (threads, bytes of shared memory)
    m.def("cuda_worker", [](int dim, int window, int negative) {
        const CudaWorker worker = cuda_worker(dim, window, negative);
        return py::make_tuple(worker.threads, worker.shared_bytes);
    });
    m.def("cuda_default_workers", &cuda_default_workers);  // (dim, window, negative, device)
    m.def("cuda_train_block",
          [](int workers, uintptr_t workspace, int device, uintptr_t stream, const py::kwargs& arguments) {
              const CudaBlock block = cuda_block(arguments);
              py::gil_scoped_release without_gil;
              cuda_train_block(block, workers, pointer<void>(workspace), device, pointer<void>(stream));
          });
    m.def(
        "cuda_initial_weights",
        [](uintptr_t table, int64_t first_row, int64_t rows, int dim, int64_t stride, uint64_t seed,
           int device, uintptr_t stream) {
            cuda_initial_weights(pointer<float>(table), first_row, rows, dim, stride, seed, device,
                                 pointer<void>(stream));
        },
        WithoutGil());
    m.attr("cuda_toolkit") = EMBEDTRAIN_CUDA;
    m.def("cuda_report", [] {
        const CudaReport report = cuda_report();
        py::list devices;
        for (const CudaDevice& device : report.devices)
            devices.append(py::make_tuple(device.name, device.major, device.minor, device.bytes));
        py::dict result;
        result["runtime"] = report.runtime;
        result["driver"] = report.driver;
        result["error"] = report.error;
        result["devices"] = devices;
        return result;
    });
#else
    m.attr("cuda_toolkit") = py::none();
#endif
}

// A parser with the rows it fills; the tokens and fallback rows come as addresses, and are copied.
struct VectorReader {
    Rows rows;
    std::unique_ptr<Parser> parser;

    VectorReader(const Rows::Options& options, const std::string& tokens, const std::string& fallback_tokens,
                 uintptr_t fallback_rows)
        : rows(options, tokens, fallback_tokens, pointer<const int64_t>(fallback_rows)) {}
};

void bind_vectors(py::module_& m) {
    py::class_<VectorReader>(m, "VectorReader")
        .def(py::init([](int dim, int type, const std::string& tokens, bool grow,
                         const std::string& fallback_tokens, uintptr_t fallback_rows, bool unit_norm,
                         bool strict, int64_t limit) {
                 Rows::Options options;
                 options.dim = dim;
                 options.type = static_cast<NumberType>(type);
                 options.grow = grow;
                 options.unit_norm = unit_norm;
                 options.strict = strict;
                 options.limit = limit;
                 return std::make_unique<VectorReader>(options, tokens, fallback_tokens, fallback_rows);
             }),
             py::kw_only(), py::arg("dim"), py::arg("type"), py::arg("tokens"), py::arg("grow"),
             py::arg("fallback_tokens"), py::arg("fallback_rows"), py::arg("unit_norm"), py::arg("strict"),
             py::arg("limit"))
        .def("begin_text",
             [](VectorReader& self, int64_t header_lines) {
                 self.parser = std::make_unique<TextParser>(self.rows, header_lines);
             })
        .def("begin_binary",
             [](VectorReader& self, int64_t expected, int64_t start) {
                 self.parser = std::make_unique<BinaryParser>(self.rows, expected, start);
             })
        .def("feed",
             [](VectorReader& self, const py::buffer& chunk) {
                 const py::buffer_info info = chunk.request();
                 const std::string_view text(static_cast<const char*>(info.ptr),
                                             static_cast<size_t>(info.size * info.itemsize));
                 py::gil_scoped_release without_gil;
                 return static_cast<int>(self.parser->feed(text));
             })
        .def(
            "finish", [](VectorReader& self) { return static_cast<int>(self.parser->finish()); },
            WithoutGil())
        // One row after the other from memory: float32 (n, dim) at `numbers`, its tokens each ended by \n.
        .def("add",
             [](VectorReader& self, const std::string& tokens, uintptr_t numbers, int64_t first_place) {
                 py::gil_scoped_release without_gil;
                 const float* row = pointer<const float>(numbers);
                 for (size_t at = 0; at < tokens.size() && !self.rows.refused() && !self.rows.enough();) {
                     const size_t end = tokens.find('\n', at);
                     if (self.rows.take(std::string_view(tokens).substr(at, end - at), first_place)) {
                         self.rows.put(row, first_place);
                     }
                     row += self.rows.dim();
                     ++first_place;
                     at = end + 1;
                 }
             })
        .def_property_readonly("place", [](const VectorReader& self) { return self.parser->place(); })
        .def_property_readonly("changed_at",
                               [](const VectorReader& self) { return self.parser->changed_at(); })
        .def_property_readonly("rows_read", [](const VectorReader& self) { return self.rows.read(); })
        .def_property_readonly("refused", [](const VectorReader& self) { return self.rows.refused(); })
        // [(count, place of the first)] by Defect
        .def("findings",
             [](const VectorReader& self) {
                 std::vector<std::pair<int64_t, int64_t>> findings;
                 for (int i = 0; i < kDefects; ++i) {
                     findings.emplace_back(self.rows.findings()[i].count, self.rows.findings()[i].first);
                 }
                 return findings;
             })
        // (tokens added, state per row, the bytes of the table); the reader is empty then
        .def("finish_rows", [](VectorReader& self, size_t number_bytes) {
            const std::string tokens = self.rows.added_tokens();
            const auto size = static_cast<py::ssize_t>(self.rows.size()) * self.rows.dim() *
                              static_cast<py::ssize_t>(number_bytes);
            void* const numbers = self.rows.release();
            const py::capsule owner(numbers, [](void* p) { std::free(p); });
            return py::make_tuple(py::bytes(tokens), to_array(self.rows.states()),
                                  py::array_t<uint8_t>(size, static_cast<uint8_t*>(numbers), owner));
        });
    m.def("compose_words", [](const std::string& words, uintptr_t word_rows, uintptr_t table, int64_t rows,
                              int dim, uintptr_t out, uintptr_t counts, const py::kwargs& k) {
        Subwords subwords;
        subwords.min_n = k["min_n"].cast<int>();
        subwords.max_n = k["max_n"].cast<int>();
        subwords.buckets = k["buckets"].cast<int64_t>();
        subwords.first_bucket = k["first_bucket"].cast<int64_t>();
        subwords.hash = static_cast<Subwords::Hash>(k["hash"].cast<int>());
        subwords.hash_count = k["hash_count"].cast<int>();
        subwords.hash_seed = k["hash_seed"].cast<uint32_t>();
        subwords.begin = k["begin"].cast<std::string>();
        subwords.end = k["end"].cast<std::string>();
        subwords.lone_marks = k["lone_marks"].cast<bool>();
        subwords.end_of_line = k["end_of_line"].cast<bool>();
        py::gil_scoped_release without_gil;
        compose(subwords, words, pointer<const int64_t>(word_rows), pointer<const char>(table), rows, dim,
                pointer<float>(out), pointer<int32_t>(counts));
    });
    // (words, each ended by \n; counts; types; bytes used)
    m.def("read_fasttext_dictionary", [](uintptr_t data, size_t bytes, int64_t entries) {
        FasttextDictionary dictionary;
        {
            py::gil_scoped_release without_gil;
            dictionary = read_fasttext_dictionary({pointer<const char>(data), bytes}, entries);
        }
        return py::make_tuple(py::bytes(dictionary.words), give_array(std::move(dictionary.counts)),
                              give_array(std::move(dictionary.types)), dictionary.bytes);
    });
    // For the tests: the float of a number, None if it is none.
    m.def("parse_number", [](const std::string& text) -> std::optional<float> {
        const char* p = text.data();
        float value;
        if (!parse_number(p, text.data() + text.size(), value) || p != text.data() + text.size()) return {};
        return value;
    });
    m.def("to_half", [](float value, bool brain) { return brain ? to_bfloat16(value) : to_float16(value); });
}

}  // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "The native core of embedtrain. Use it through embedtrain.ops.";
    m.attr("version") = EMBEDTRAIN_VERSION;
    m.attr("MOST_NOISE_SHARERS") = kMostNoiseSharers;
    bind_corpus(m);
    bind_sampling(m);
    bind_cpu(m);
    bind_exchange(m);
    bind_cuda(m);
    bind_vectors(m);
}
