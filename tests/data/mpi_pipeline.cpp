// The pipeline on any number of ranks: what the shards hold is compared with rows encoded here, one by one.
// That the bytes are the same for every number of ranks is tests/cli/test_preprocess.py's.
#include <fstream>
#include <map>
#include <set>

#include <doctest/doctest.h>

#include "../mpi_main.hpp"
#include "fake_tokenizer.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/log.hpp"
#include "llmft/data/orca_reader.hpp"
#include "llmft/data/pipeline.hpp"
#include "llmft/data/shard_set.hpp"
#include "scratch.hpp"

using namespace llmft;
namespace fs = std::filesystem;

namespace {

struct TestRow {
  std::string system_prompt, question, response;
};

// A few of each kind that is dropped, among many that are kept.
std::vector<TestRow> make_rows(int count) {
  std::vector<TestRow> rows;
  for (int i = 0; i < count; ++i) {
    TestRow row{i % 3 == 0 ? "" : fmt::format("system {}", i % 5), fmt::format("question {}?", i),
                fmt::format(" answer {} {}", i, std::string(static_cast<size_t>(i % 40), 'x'))};
    if (i % 50 == 10) row.question = " \n ";
    if (i % 50 == 20) row.response = "";
    if (i % 50 == 30) row.response = std::string(600, 'y') + std::to_string(i);
    if (i % 50 == 40) row = rows[static_cast<size_t>(i - 7)];
    if (i % 100 == 45) row.response = "bad \xff bytes";
    rows.push_back(row);
  }
  return rows;
}

std::string json_line(const TestRow& row) {
  std::string line = "{";
  auto field = [&](const char* name, const std::string& value) {
    line += fmt::format("{}\"{}\": \"", line.size() > 1 ? ", " : "", name);
    for (char c : value) line += c == '\n' ? std::string("\\n") : std::string(1, c);
    line += '"';
  };
  field("system_prompt", row.system_prompt);
  field("question", row.question);
  field("response", row.response);
  return line + "}\n";
}

// One folder for all ranks, with the rows spread over three files; removed at the end.
class SharedFolder {
 public:
  explicit SharedFolder(const std::vector<TestRow>& rows) {
    if (test_process().is_root()) {
      scratch_ = std::make_unique<Scratch>();
      for (size_t part = 0; part < 3; ++part) {
        std::string text;
        for (size_t i = rows.size() * part / 3; i < rows.size() * (part + 1) / 3; ++i)
          text += json_line(rows[i]);
        scratch_->write(fmt::format("in/part{}.jsonl", part), text);
      }
    }
    path_ = test_process().broadcast(scratch_ ? scratch_->path().string() : "");
  }
  ~SharedFolder() { test_process().barrier(); }
  fs::path operator/(const char* name) const { return path_ / name; }

 private:
  std::unique_ptr<Scratch> scratch_;
  fs::path path_;
};

// On rank 0, between barriers: the others must not run ahead.
void on_root(const std::function<void()>& action) {
  test_process().barrier();
  if (test_process().is_root()) action();
  test_process().barrier();
}

std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file())
      out[entry.path().lexically_relative(folder).string()] = read_file(entry.path());
  return out;
}

}  // namespace

TEST_CASE("every row is in its shard, in the other split, or counted as dropped") {
  log::set_quiet(true);
  auto rows = make_rows(1000);
  SharedFolder folder(rows);
  ByteTokenizer tokenizer;
  PreprocessOptions options;
  options.input = folder / "in";
  options.output = folder / "out";
  options.max_length = 400;
  options.min_length = 60;
  options.validation = 0.1;
  options.rows_per_shard = 64;
  Manifest manifest = preprocess(test_process(), tokenizer, options);

  std::map<uint64_t, std::vector<TokenId>> expected;
  DropCounts drops{};
  std::set<std::string> seen;
  ChatTemplate chat(TemplateKind::llama3, tokenizer);
  for (size_t i = 0; i < rows.size(); ++i) {
    const TestRow& row = rows[i];
    auto drop = [&](DropReason reason) { ++drops[static_cast<size_t>(reason)]; };
    bool first = seen.insert(row.system_prompt + '\0' + row.question + '\0' + row.response).second;
    std::vector<TokenId> tokens;
    uint32_t loss_start = 0;
    if (row.response.find('\xff') != std::string::npos) {
      drop(DropReason::not_utf8);
    } else if (strip(row.question).empty() || strip(row.response).empty()) {
      drop(DropReason::empty);
    } else {
      chat.encode({row.system_prompt, row.question, row.response}, tokens, loss_start);
      if (tokens.size() > 400) {
        drop(DropReason::too_long);
      } else if (tokens.size() < 60) {
        drop(DropReason::too_short);
      } else if (!first) {
        drop(DropReason::duplicate);
      } else {
        expected[i] = tokens;
      }
    }
  }
  for (uint64_t count : drops) CHECK(count > 0);
  CHECK(manifest.drops == drops);
  CHECK(manifest.rows == rows.size());
  CHECK(manifest.shards.size() == 16);
  CHECK(manifest.kept + manifest.other_split == expected.size());
  CHECK(manifest.template_name == "llama3");

  ShardSet train(folder / "out", {"bytes", "xxh3-128:fake", tokenizer.vocabulary_size()});
  ShardSet valid(folder / "out" / "valid");
  train.verify();
  valid.verify();
  CHECK(train.size() == manifest.kept);
  CHECK(valid.size() == manifest.other_split);
  double share = static_cast<double>(valid.size()) / static_cast<double>(expected.size());
  CHECK(share > 0.06);
  CHECK(share < 0.14);
  uint64_t tokens = 0;
  for (const ShardSet* set : {&train, &valid}) {
    for (uint64_t i = 0; i < set->size(); ++i) {
      std::vector<int32_t> got;
      set->append_tokens(i, got);
      auto found = expected.find(set->row(i));
      REQUIRE(found != expected.end());
      CHECK(std::equal(got.begin(), got.end(), found->second.begin(), found->second.end()));
      if (i > 0) CHECK(set->row(i) > set->row(i - 1));
      expected.erase(found);
      if (set == &train) tokens += got.size();
    }
  }
  CHECK(expected.empty());
  CHECK(tokens == manifest.tokens);
}

TEST_CASE("a second run keeps what is whole, makes what is not, and leaves no temporary file") {
  log::set_quiet(true);
  SharedFolder folder(make_rows(400));
  ByteTokenizer tokenizer;
  PreprocessOptions options;
  options.input = folder / "in";
  options.output = folder / "out";
  options.validation = 0.2;
  options.rows_per_shard = 50;
  preprocess(test_process(), tokenizer, options);
  std::map<std::string, std::string> before;
  std::map<std::string, fs::file_time_type> times;
  fs::path out = folder / "out";
  on_root([&] {
    before = contents(out);
    // as a killed run leaves it: no manifest, shards missing, one cut, temporary files
    fs::remove(out / "manifest.json");
    fs::remove(out / "shard-00001-of-00008.h5");
    fs::remove(out / "valid" / "shard-00003-of-00008.h5");
    fs::resize_file(out / "shard-00005-of-00008.h5", 1000);
    std::ofstream(out / "shard-00001-of-00008.h5.tmp.77") << "half";
    std::ofstream(out / "valid" / "manifest.json.tmp.77") << "half";
    for (int kept : {0, 2, 4, 6, 7}) {
      fs::path path = out / fmt::format("shard-{:05}-of-00008.h5", kept);
      times[path.string()] = fs::last_write_time(path);
    }
  });
  preprocess(test_process(), tokenizer, options);
  on_root([&] {
    auto after = contents(out);
    CHECK(after.size() == before.size());
    CHECK((after == before));
    for (auto& [path, time] : times) CHECK(fs::last_write_time(path) == time);
  });
  // and with everything there, nothing is touched
  fs::file_time_type manifest_time;
  on_root([&] { manifest_time = fs::last_write_time(out / "manifest.json"); });
  preprocess(test_process(), tokenizer, options);
  on_root([&] { CHECK(fs::last_write_time(out / "manifest.json") == manifest_time); });

  // other settings: with force all is replaced
  options.validation = 0;
  options.rows_per_shard = 100;
  options.force = true;
  Manifest manifest = preprocess(test_process(), tokenizer, options);
  CHECK(manifest.shards.size() == 4);
  on_root([&] {
    CHECK(contents(out).size() == 5);
    CHECK_FALSE(fs::exists(out / "valid"));
    ShardSet(out).verify();
  });
}

TEST_CASE("the validation split is chosen by the text: stable when rows are reordered") {
  log::set_quiet(true);
  auto rows = make_rows(300);
  for (auto& row : rows) row.response += " unique";
  auto validation_texts = [&](const std::vector<TestRow>& in) {
    SharedFolder folder(in);
    ByteTokenizer tokenizer;
    PreprocessOptions options;
    options.input = folder / "in";
    options.output = folder / "out";
    options.validation = 0.3;
    preprocess(test_process(), tokenizer, options);
    ShardSet valid(folder / "out" / "valid");
    std::set<std::string> texts;
    for (uint64_t i = 0; i < valid.size(); ++i) {
      std::vector<int32_t> got;
      valid.append_tokens(i, got);
      texts.insert(tokenizer.decode(std::vector<TokenId>(got.begin(), got.end())));
    }
    return texts;
  };
  auto forward = validation_texts(rows);
  CHECK(forward.size() > 30);
  std::reverse(rows.begin(), rows.end());
  CHECK((validation_texts(rows) == forward));
}

TEST_CASE("truncation keeps the length, and drops what has no response left") {
  log::set_quiet(true);
  SharedFolder folder(make_rows(200));
  ByteTokenizer tokenizer;
  PreprocessOptions options;
  options.input = folder / "in";
  options.output = folder / "out";
  options.max_length = 50;  // some prompts alone are longer
  options.on_too_long = OnTooLong::truncate;
  Manifest manifest = preprocess(test_process(), tokenizer, options);
  CHECK(manifest.truncated > 0);
  CHECK(manifest.drops[static_cast<size_t>(DropReason::too_long)] > 0);
  CHECK(manifest.lengths.max == 50);
  ShardSet shards(folder / "out");
  uint64_t cut = 0;
  for (uint64_t i = 0; i < shards.size(); ++i) {
    std::vector<int32_t> got;
    shards.append_tokens(i, got);
    CHECK(shards.loss_tokens(i) >= 1);
    if (static_cast<TokenId>(got.back()) != *tokenizer.special("<|eot_id|>")) ++cut;
  }
  CHECK(cut == manifest.truncated);
}

TEST_CASE("cut to the shortest length allowed, all samples have one length") {
  log::set_quiet(true);
  SharedFolder folder(make_rows(200));
  ByteTokenizer tokenizer;
  PreprocessOptions options;
  options.input = folder / "in";
  options.output = folder / "out";
  options.max_length = options.min_length = 100;
  options.on_too_long = OnTooLong::truncate;
  Manifest manifest = preprocess(test_process(), tokenizer, options);
  CHECK(manifest.kept > 10);
  CHECK(manifest.drops[static_cast<size_t>(DropReason::too_short)] > 0);
  CHECK(manifest.lengths.min == 100);
  CHECK(manifest.lengths.max == 100);
  CHECK(manifest.tokens == 100 * manifest.kept);
  CHECK(read_manifest(folder / "out").drops == manifest.drops);
}

TEST_CASE("other input or settings are refused, saying which") {
  if (test_process().size() > 1) return;  // an error on one rank ends the program
  log::set_quiet(true);
  SharedFolder folder(make_rows(100));
  ByteTokenizer tokenizer;
  PreprocessOptions options;
  options.input = folder / "in";
  options.output = folder / "out";
  preprocess(test_process(), tokenizer, options);
  auto before = contents(folder / "out");
  auto refused = [&](const PreprocessOptions& changed, const Tokenizer& with) {
    std::string error = error_of([&] { preprocess(test_process(), with, changed); });
    CHECK((contents(folder / "out") == before));
    CAPTURE(error);
    CHECK(contains(error, "--force"));
    return error;
  };
  PreprocessOptions longer = options;
  longer.max_length = 4000;
  CHECK(contains(refused(longer, tokenizer), "max_length was 2048, is 4000"));
  PreprocessOptions plain = options;
  plain.chat_template = TemplateKind::plain;
  CHECK(contains(refused(plain, tokenizer), "template was \"llama3\", is \"plain\""));
  CHECK(contains(refused(options, ByteTokenizer(ByteTokenizer::Specials::llama3, "xxh3-128:else")),
                 "the tokenizer differs"));
  std::ofstream(folder / "in" / "part0.jsonl", std::ios::app) << json_line({"", "new", "row"});
  CHECK(contains(refused(options, tokenizer), "the input differs"));
  options.force = true;
  CHECK(preprocess(test_process(), tokenizer, options).rows == 101);
}

TEST_CASE("the preview marks what is supervised and counts only what is kept") {
  SharedFolder folder(make_rows(30));
  on_root([&] {
    ByteTokenizer tokenizer;
    PreprocessOptions options;
    options.input = folder / "in";
    options.preview = 12;
    std::FILE* out = std::tmpfile();
    print_preview(tokenizer, options, PreviewStyle::brackets, out);
    std::string text(static_cast<size_t>(std::ftell(out)), '\0');
    std::rewind(out);
    CHECK(std::fread(text.data(), 1, text.size(), out) == text.size());
    std::fclose(out);
    CHECK(contains(
        text,
        "question 0?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n[[answer 0<|eot_id|>]]\n"));
    CHECK(contains(text, "row 10: dropped, empty"));
    CHECK(contains(text, "row 12:"));
    CHECK_FALSE(contains(text, "row 13:"));
    CHECK_FALSE(fs::exists(folder / "out"));
  });
}
