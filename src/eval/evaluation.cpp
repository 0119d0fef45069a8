#include "llmft/eval/evaluation.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include <nlohmann/json.hpp>

#include "answers.hpp"
#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/text.hpp"
#include "llmft/comm/comm.hpp"
#include "llmft/data/shard_set.hpp"
#include "llmft/eval/bleu.hpp"
#include "llmft/eval/rouge.hpp"
#include "llmft/eval/statistics.hpp"
#include "llmft/report/benchmarks.hpp"
#include "llmft/report/csv.hpp"
#include "llmft/report/run_report.hpp"
#include "llmft/tokenizer/tokenizer.hpp"
#include "scoring.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSystems[] = {"base", "adapter"};

void validate(const EvalOptions& o) {
  if (o.model.empty())
    user_error("--model: no model folder given; for example --model models/Llama-3.2-1B-Instruct");
  if (o.data.empty())
    user_error(
        "--data: no shard folder given; 'llmft preprocess --validation 0.01' makes <output>/valid, a set "
        "that "
        "training does not see");
  if (o.output.empty()) user_error("--output: no folder given; for example --output runs/eval");
  fs::path report = fs::path(o.output) / "run.json";
  if (fs::exists(report)) {
    auto json = nlohmann::json::parse(read_file(report), nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || json.value("command", nlohmann::json()) != "eval")
      user_error(
          "{}: holds something else than an evaluation (its run.json says so); give another --output, as {}",
          o.output, (fs::path(o.output) / "eval").string());
  }
  if (!o.overwrite && fs::exists(fs::path(o.output) / "eval.csv"))
    user_error("{}: has results of an evaluation already; give another --output, or --overwrite", o.output);
}

ShardExpectation expectation_of(const Tokenizer& tokenizer, const LlamaConfig& config, const fs::path& data) {
  ShardExpectation expected{"", "", static_cast<uint64_t>(config.vocab_size)};
  // the same vocabulary exists as two files of different form; only like forms can be compared
  if (read_manifest(data).tokenizer.kind == tokenizer.kind()) {
    expected.tokenizer_kind = tokenizer.kind();
    expected.tokenizer_hash = tokenizer.file_hash();
  }
  return expected;
}

// Every n-th of the first `count` samples, from this rank's on.
std::vector<uint64_t> own_samples(const Process& process, uint64_t count) {
  std::vector<uint64_t> out;
  for (auto i = static_cast<uint64_t>(process.rank()); i < count; i += static_cast<uint64_t>(process.size()))
    out.push_back(i);
  return out;
}

double ratio_exp(std::span<const double> sums) {
  return std::exp(sums[0] / sums[1]);
}
double mean_percent(std::span<const double> sums) {
  return 100 * sums[0] / sums[1];
}

// One line of the table: a metric of one or two systems.
struct Line {
  std::string name;
  Metric systems[2];
};

std::vector<Line> lines_of(const std::vector<SampleLoss>& losses, const std::vector<double>& tokens,
                           const std::vector<Answered>& answers, int systems) {
  std::vector<Line> lines(5);
  const char* names[] = {"perplexity", "BLEU", "ROUGE-1", "ROUGE-2", "ROUGE-L"};
  for (size_t i = 0; i < lines.size(); ++i) lines[i].name = names[i];
  for (int s = 0; s < systems; ++s) {
    Metric& perplexity = lines[0].systems[s];
    perplexity = {2, {}, ratio_exp};
    for (size_t i = 0; i < losses.size(); ++i)
      perplexity.samples.insert(perplexity.samples.end(),
                                {s == 0 ? losses[i].base : losses[i].adapted, tokens[i]});
    lines[1].systems[s] = {std::tuple_size_v<BleuCounts>, {}, bleu};
    for (size_t m = 2; m < 5; ++m) lines[m].systems[s] = {2, {}, mean_percent};
    for (const Answered& a : answers) {
      BleuCounts counts = bleu_counts(a.answers[s], a.reference);
      auto& rows = lines[1].systems[s].samples;
      rows.insert(rows.end(), counts.begin(), counts.end());
      RougeScores r = rouge(a.answers[s], a.reference);
      double f[] = {r.rouge1.f, r.rouge2.f, r.rouge_l.f};
      for (size_t m = 0; m < 3; ++m) {
        auto& values = lines[m + 2].systems[s].samples;
        values.insert(values.end(), {f[m], 1});
      }
    }
  }
  std::erase_if(lines, [](const Line& line) { return line.systems[0].size() == 0; });
  return lines;
}

std::string interval_text(const Interval& i) {
  return fmt::format("{:>9.3f}  [{:.3f}, {:.3f}]", i.value, i.low, i.high);
}

struct Results {
  std::string table;
  std::string csv;
  std::vector<std::pair<std::string, ReportValue>> report;
  BenchmarkRow rows[2];  // scores alone
};

Results evaluate(const std::vector<Line>& lines, int systems, const EvalOptions& o) {
  Results out;
  out.table = fmt::format("{:<11} {:>8}  {:<32}", "metric", "samples", "base  [95 %]");
  if (systems == 2)
    out.table += fmt::format(" {:<32} {:<32} {}", "adapter  [95 %]", "difference  [95 %]", "p");
  out.table += "\n";
  auto csv_line = [&](const std::string& metric, const std::string& system, int64_t samples,
                      const Interval& i, const std::string& p, bool header) {
    std::vector<CsvColumn> columns{{"metric", metric},
                                   {"system", system},
                                   {"samples", std::to_string(samples)},
                                   {"value", number(i.value)},
                                   {"low", number(i.low)},
                                   {"high", number(i.high)},
                                   {"p", p}};
    if (header) out.csv += csv_header(columns) + "\n";
    out.csv += csv_row(columns) + "\n";
  };
  for (const Line& line : lines) {
    int64_t n = line.systems[0].size();
    auto seed = static_cast<uint64_t>(o.seed);
    std::string row = fmt::format("{:<11} {:>8}", line.name, n);
    for (int s = 0; s < systems; ++s) {
      Interval value = bootstrap(line.systems[s], o.resamples, seed);
      row += fmt::format("  {:<31}", interval_text(value));
      csv_line(line.name, kSystems[s], n, value, "", out.csv.empty());
      out.report.emplace_back(fmt::format("{}_{}", line.name, kSystems[s]), value.value);
      if (line.name == "perplexity") out.rows[s].perplexity = value.value;
      if (line.name == "BLEU") out.rows[s].bleu = value.value;
      if (line.name == "ROUGE-L") out.rows[s].rouge_l = value.value;
    }
    if (systems == 2) {
      Paired paired = compare(line.systems[0], line.systems[1], o.resamples, seed);
      row += fmt::format("  {:<31}  {}", interval_text(paired.difference),
                         paired.p < 1e-4 ? fmt::format("{:.1e}", paired.p) : fmt::format("{:.4f}", paired.p));
      csv_line(line.name, "difference", n, paired.difference, number(paired.p), false);
      out.report.emplace_back(line.name + "_p", paired.p);
    }
    out.table += row + "\n";
  }
  return out;
}

void write_answers(const fs::path& folder, const std::vector<Answered>& answers, const ShardSet& shards,
                   int systems) {
  std::string lines, page = "# Answers side by side\n";
  auto quoted = [](const std::string& text) {
    std::string out;
    for (const std::string& line : split(text, '\n')) out += "> " + line + "\n";
    return out;
  };
  for (const Answered& a : answers) {
    nlohmann::ordered_json j{{"row", shards.row(a.sample)}, {"prompt", a.prompt}, {"reference", a.reference}};
    page += fmt::format("\n## Row {}\n\n{}\n**Data**\n\n{}", shards.row(a.sample), quoted(a.prompt),
                        quoted(a.reference));
    for (int s = 0; s < systems; ++s) {
      double score = rouge(a.answers[s], a.reference).rouge_l.f;
      j[kSystems[s]] = {
          {"text", a.answers[s]}, {"tokens", a.tokens[s]}, {"finish", a.finishes[s]}, {"rouge_l", score}};
      page += fmt::format("\n**{}** (ROUGE-L {:.3f}, {} tokens, {})\n\n{}", s == 0 ? "Base" : "Adapter",
                          score, a.tokens[s], a.finishes[s], quoted(a.answers[s]));
    }
    lines += j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  write_file_atomic(folder / "answers.jsonl", lines);
  write_file_atomic(folder / "answers.md", page);
}

// "c" of "a/b/c" and of "a/b/c/".
fs::path without_slash(const fs::path& path) {
  fs::path normal = path.lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

// runs/NAME/adapter and runs/NAME/model: what a run leaves.
std::string run_of(const EvalOptions& o) {
  if (!o.run.empty()) return o.run;
  return without_slash(fs::absolute(o.adapter.empty() ? o.model : o.adapter))
      .parent_path()
      .filename()
      .string();
}

void add_to_table(const EvalOptions& o, const Process& process, const RunReport& report,
                  const LoadedModel& model, Results& results, int systems) {
  for (int s = 0; s < systems; ++s) {
    BenchmarkRow& row = results.rows[s];
    row.time_utc = utc_now();
    row.run = run_of(o);
    row.host = process.host();
    row.device = report.device;
    row.version = report.build.version;
    row.command = s + 1 == systems ? "eval" : "eval-base";
    row.precision = name_of(model.recipe().precision);
    row.model = without_slash(o.model).filename().string();
    row.data = without_slash(o.data).filename().string();
    row.ranks = report.ranks;
    row.nodes = report.nodes;
    row.config_hash = report.config_hash;
    bool cuda = model.device().kind() == DeviceKind::cuda;
    row.versions = cuda ? versions_text(cuda_build_version(), nccl_version()) : versions_text("", "");
    row.vocab_size = model.config().vocab_size;
    append_benchmark(o.results, row);
  }
}

// What each sample adds to the scores, so that other programs can resample them, and compare evaluations.
std::string samples_table(const std::vector<Line>& lines, const ShardSet& shards, int systems) {
  auto find = [&](const char* name) -> const Line* {
    auto found = std::find_if(lines.begin(), lines.end(), [&](const Line& l) { return l.name == name; });
    return found == lines.end() ? nullptr : &*found;
  };
  const Line *perplexity = find("perplexity"), *bleu = find("BLEU"), *rouge_l = find("ROUGE-L");
  auto field = [](const Line* line, int s, int64_t row, int64_t column) -> std::string {
    if (line == nullptr || row >= line->systems[s].size()) return "";
    const Metric& m = line->systems[s];
    return number(m.samples[static_cast<size_t>(row * m.width + column)]);
  };
  constexpr const char* kCounts[] = {"bleu_hypothesis", "bleu_reference", "bleu_match_1", "bleu_match_2",
                                     "bleu_match_3",    "bleu_match_4",   "bleu_total_1", "bleu_total_2",
                                     "bleu_total_3",    "bleu_total_4"};
  static_assert(std::size(kCounts) == std::tuple_size_v<BleuCounts>);
  int64_t rows = std::max(perplexity != nullptr ? perplexity->systems[0].size() : 0,
                          bleu != nullptr ? bleu->systems[0].size() : 0);
  std::string out;
  for (int64_t i = 0; i < rows; ++i)
    for (int s = 0; s < systems; ++s) {
      std::vector<CsvColumn> columns{{"row", std::to_string(shards.row(static_cast<uint64_t>(i)))},
                                     {"system", kSystems[s]},
                                     {"loss_sum", field(perplexity, s, i, 0)},
                                     {"supervised_tokens", field(perplexity, s, i, 1)},
                                     {"rouge_l", field(rouge_l, s, i, 0)}};
      for (size_t c = 0; c < std::size(kCounts); ++c)
        columns.push_back({kCounts[c], field(bleu, s, i, static_cast<int64_t>(c))});
      if (out.empty()) out = csv_header(columns) + "\n";
      out += csv_row(columns) + "\n";
    }
  return out;
}

}  // namespace

void run_evaluation(const Process& process, const EvalOptions& o, const std::string& config_yaml) {
  validate(o);
  std::string started = utc_now();
  Stopwatch watch;
  auto tokenizer = load_tokenizer(o.tokenizer.empty() ? o.model : o.tokenizer);
  LlamaConfig config = load_llama_config(o.model);
  ShardSet shards(o.data, expectation_of(*tokenizer, config, o.data));
  if (shards.size() == 0)
    user_error("{}: has no samples; preprocess more rows, or with a larger --validation", o.data);
  ModelSource source = model_source(process, o.device, o.precision, o.threads);
  source.model = o.model;
  source.adapter = o.adapter;
  LoadedModel model(source);
  int systems = model.has_adapter() ? 2 : 1;
  fs::path output = o.output;
  if (process.is_root()) {  // found now rather than when the work is done
    if (!o.results.empty()) check_benchmark_table(o.results);
    make_writable_folder(output);
  }

  uint64_t scored = o.perplexity_samples > 0
                        ? std::min<uint64_t>(shards.size(), static_cast<uint64_t>(o.perplexity_samples))
                        : shards.size();
  uint64_t answered =
      o.samples < 0 ? shards.size() : std::min<uint64_t>(shards.size(), static_cast<uint64_t>(o.samples));
  bool cuda = model.device().kind() == DeviceKind::cuda;
  int64_t pack_tokens = o.pack_tokens > 0 ? o.pack_tokens : cuda ? 8192 : 1024;
  for (uint64_t i = 0; i < scored; ++i) pack_tokens = std::max<int64_t>(pack_tokens, shards.length(i));
  log::info("{} samples for perplexity, {} to answer, on {} rank{} ({})", scored, answered, process.size(),
            process.size() == 1 ? "" : "s", model.device().name());

  std::vector<uint64_t> own = own_samples(process, scored);
  std::vector<SampleLoss> losses = sample_losses(model, shards, own, pack_tokens);
  double scoring_seconds = watch.seconds();
  watch.reset();
  std::vector<Answered> answers =
      answer_samples(model, *tokenizer, shards, own_samples(process, answered), o);
  double answering_seconds = watch.seconds();

  std::vector<uint64_t> words;
  for (size_t i = 0; i < own.size(); ++i)
    words.insert(words.end(), {own[i], std::bit_cast<uint64_t>(losses[i].base),
                               std::bit_cast<uint64_t>(losses[i].adapted)});
  words = process.all_gather(std::span<const uint64_t>(words));
  std::vector<std::string> texts = process.all_gather(to_text(answers));
  std::vector<std::string> hosts = process.all_gather(process.host());
  if (!process.is_root()) return;

  losses.assign(scored, {});
  std::vector<double> tokens(scored);
  for (size_t i = 0; i < words.size(); i += 3)
    losses[words[i]] = {std::bit_cast<double>(words[i + 1]), std::bit_cast<double>(words[i + 2])};
  double supervised = 0;
  for (uint64_t i = 0; i < scored; ++i) supervised += tokens[i] = shards.loss_tokens(i);
  answers.clear();
  for (const std::string& text : texts) append_text(text, answers);
  std::sort(answers.begin(), answers.end(), [](auto& a, auto& b) { return a.sample < b.sample; });
  int64_t generated = 0;
  for (const Answered& a : answers) generated += a.tokens[0] + a.tokens[1];

  std::vector<Line> lines = lines_of(losses, tokens, answers, systems);
  Results results = evaluate(lines, systems, o);
  write_file_atomic(output / "config.yaml", config_yaml);
  write_answers(output, answers, shards, systems);
  write_file_atomic(output / "samples.csv", samples_table(lines, shards, systems));
  write_file_atomic(output / "eval.csv", results.csv);
  RunReport report;
  report.command = "eval";
  report.started = started;
  report.finished = true;
  report.ranks = process.size();
  for (const std::string& host : hosts)
    if (std::find(report.hosts.begin(), report.hosts.end(), host) == report.hosts.end())
      report.hosts.push_back(host);
  report.nodes = static_cast<int64_t>(report.hosts.size());
  report.device = model.device().name();
  report.config_hash = hash_bytes(config_yaml);
  report.results = results.report;
  report.results.emplace_back("bleu_signature", kBleuSignature);
  report.results.emplace_back("rouge_signature", kRougeSignature);
  report.results.emplace_back("supervised_tokens", static_cast<int64_t>(supervised));
  report.results.emplace_back("generated_tokens", generated);
  report.results.emplace_back("perplexity_seconds", scoring_seconds);
  report.results.emplace_back("answer_seconds", answering_seconds);
  write_run_report(output / "run.json", report);
  fmt::print("{}BLEU: {}\nROUGE: {}\n", results.table, kBleuSignature, kRougeSignature);
  if (!o.results.empty()) add_to_table(o, process, report, model, results, systems);
  log::info("{} supervised tokens in {}, {} answered tokens in {}; results in {}",
            static_cast<int64_t>(supervised), human_seconds(scoring_seconds), generated,
            human_seconds(answering_seconds), output.string());
}

}  // namespace llmft
