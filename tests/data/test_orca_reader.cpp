#include <algorithm>
#include <vector>

#include <doctest/doctest.h>
#include <zlib.h>
#include <zstd.h>

#include "llmft/base/file.hpp"
#include "llmft/base/text.hpp"
#include "llmft/data/orca_reader.hpp"
#include "scratch.hpp"

using namespace llmft;
namespace fs = std::filesystem;

namespace {

struct OwnedRow {
  std::string system_prompt, question, response;
  bool operator==(const OwnedRow&) const = default;
};

std::vector<OwnedRow> read_piece(const SourceFile& file, const SourcePiece& piece) {
  std::vector<OwnedRow> rows;
  auto reader = open_piece(file, piece);
  Row row;
  while (reader->next(row))
    rows.push_back({std::string(row.system_prompt), std::string(row.question), std::string(row.response)});
  return rows;
}

std::vector<OwnedRow> read_all(const std::string& input) {
  std::vector<SourceFile> files = find_sources(input);
  std::vector<OwnedRow> rows;
  for (const SourcePiece& piece : cut_sources(files))
    for (OwnedRow& row : read_piece(files[piece.file], piece)) rows.push_back(std::move(row));
  return rows;
}

std::string line(int i) {
  return fmt::format(R"({{"id": "flan.{}", "system_prompt": "s{}", "question": "q{}", "response": "é{}"}})",
                     i, i, i, i);
}
OwnedRow row_of(int i) {
  return {fmt::format("s{}", i), fmt::format("q{}", i), fmt::format("é{}", i)};
}

std::string gzip(const std::string& text) {
  z_stream state{};
  REQUIRE(deflateInit2(&state, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(compressBound(text.size()) + 64, '\0');
  state.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  state.avail_in = static_cast<uInt>(text.size());
  state.next_out = reinterpret_cast<Bytef*>(out.data());
  state.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&state, Z_FINISH) == Z_STREAM_END);
  out.resize(state.total_out);
  deflateEnd(&state);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

const std::string kFixture = std::string(LLMFT_SOURCE_DIR) + "/tests/data/pages.parquet";

}  // namespace

TEST_CASE("JSON lines: blank lines, CRLF, byte order mark, nulls, no newline at the end") {
  Scratch scratch;
  std::string text =
      "\xEF\xBB\xBF" + line(0) + "\r\n\n  \n" +
      R"({"response": null, "question": "a\nb", "system_prompt": "", "other": [1, {"x": 2}]})" + "\n" +
      line(2);
  auto path = scratch.write("a.jsonl", text);
  CHECK(read_all(path) == std::vector<OwnedRow>{row_of(0), {"", "a\nb", ""}, row_of(2)});
}

TEST_CASE("JSON lines: cut anywhere, every row is in exactly one piece") {
  Scratch scratch;
  std::string text = line(0) + "\n" + line(1) + "\n\n" + line(2);
  auto path = scratch.write("a.jsonl", text);
  SourceFile file = find_sources(path)[0];
  std::vector<OwnedRow> whole{row_of(0), row_of(1), row_of(2)};
  for (uint64_t cut = 0; cut <= text.size(); ++cut) {
    auto rows = read_piece(file, {.begin = 0, .end = cut});
    for (auto& row : read_piece(file, {.begin = cut, .end = text.size()})) rows.push_back(row);
    CAPTURE(cut);
    CHECK(rows == whole);
  }
}

TEST_CASE("JSON lines: a line longer than the buffer") {
  Scratch scratch;
  std::string big(1 << 20, 'x');
  auto path =
      scratch.write("a.jsonl", line(0) + "\n{\"system_prompt\":\"\",\"question\":\"q\",\"response\":\"" +
                                   big + "\"}\n" + line(2) + "\n");
  CHECK(read_all(path) == std::vector<OwnedRow>{row_of(0), {"", "q", big}, row_of(2)});
}

TEST_CASE("gzip and zstd: several members, and more output than one buffer") {
  Scratch scratch;
  std::string a, b;
  std::vector<OwnedRow> rows;
  for (int i = 0; i < 20000; ++i) (i < 12000 ? a : b) += line(i) + "\n", rows.push_back(row_of(i));
  CHECK(read_all(scratch.write("a.jsonl.gz", gzip(a) + gzip(b))) == rows);
  CHECK(read_all(scratch.write("a.jsonl.zst", zstd(a) + zstd(b))) == rows);
}

TEST_CASE("gzip and zstd: cut or damaged data is refused, wherever it is cut") {
  Scratch scratch;
  std::string text;
  for (int i = 0; i < 200; ++i) text += line(i * 7919) + "\n";
  for (bool use_gzip : {true, false}) {
    std::string whole = use_gzip ? gzip(text) : zstd(text);
    std::string name = use_gzip ? "a.jsonl.gz" : "a.jsonl.zst";
    for (size_t size : {size_t{0}, size_t{5}, whole.size() / 2, whole.size() - 1}) {
      auto path = scratch.write(name, whole.substr(0, size));
      std::string error = error_of([&] { read_all(path); });
      CAPTURE(error);
      CHECK(contains(error, name));
      CHECK(contains(error, "corrupt"));
    }
    std::string damaged = whole;
    damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 0x55);
    damaged[damaged.size() / 2 + 1] = static_cast<char>(damaged[damaged.size() / 2 + 1] ^ 0x55);
    auto path = scratch.write(name, damaged);
    CHECK(error_of([&] { read_all(path); }) != "");
  }
}

TEST_CASE("JSON lines: errors name file and line") {
  Scratch scratch;
  auto refused = [&](const std::string& bad) {
    auto path = scratch.write("a.jsonl", line(0) + "\n\n" + bad + "\n");
    std::string error = error_of([&] { read_all(path); });
    CAPTURE(error);
    CHECK(contains(error, path.string() + ":3: "));
    return error;
  };
  CHECK(contains(refused("{\"question\": "), "not valid JSON"));
  CHECK(contains(refused("[1]"), "a JSON object is needed"));
  CHECK(
      contains(refused(R"({"system_prompt": "", "question": 3, "response": "x"})"), "'question' is number"));
  std::string error = refused(R"({"system_prompt": "", "questoin": "x", "response": "x"})");
  CHECK(contains(error, "no column question"));
  CHECK(contains(error, "'questoin' for 'question'"));

  // the piece does not start at the file's start
  auto path = scratch.write("a.jsonl", line(0) + "\n" + line(1) + "\n{\n");
  SourceFile file = find_sources(path)[0];
  error = error_of([&] { read_piece(file, {.begin = 10, .end = file.bytes}); });
  CHECK(contains(error, "a.jsonl:3: "));
}

TEST_CASE("JSON lines: what is not UTF-8 comes as a row that is not") {
  Scratch scratch;
  auto path = scratch.write("a.jsonl", line(0) + "\n{\"question\": \"\xff\"}\n" +
                                           R"({"system_prompt": "", "question": "\ud83d", "response": "x"})" +
                                           "\n" + line(3));
  auto rows = read_all(path);
  REQUIRE(rows.size() == 4);
  CHECK(valid_utf8_prefix(rows[1].question) != rows[1].question.size());
  CHECK(valid_utf8_prefix(rows[2].question) != rows[2].question.size());
  CHECK(rows[3] == row_of(3));
}

TEST_CASE("Parquet: pages, dictionaries, nulls, columns in any order") {
  auto rows = read_all(kFixture);
  REQUIRE(rows.size() == 3000);
  for (int i = 0; i < 3000; ++i) {
    std::string response;
    for (int k = 0; k < 1 + i % 50; ++k) response += std::to_string(i);
    CHECK(rows[static_cast<size_t>(i)] == OwnedRow{fmt::format("system {}", i % 5),
                                                   i % 7 == 0 ? "" : fmt::format("question {}", i),
                                                   response});
  }
}

TEST_CASE("Parquet: a piece may start at any row") {
  SourceFile file = find_sources(kFixture)[0];
  auto rows = read_all(kFixture);
  for (uint64_t begin : {0, 1, 63, 64, 65, 500, 1023, 1024, 1025, 1999}) {
    auto piece = read_piece(file, {.row_group = 0, .begin = begin, .rows = 2000 - begin});
    CAPTURE(begin);
    REQUIRE(piece.size() == 2000 - begin);
    CHECK(std::equal(piece.begin(), piece.end(), rows.begin() + static_cast<ptrdiff_t>(begin)));
  }
}

TEST_CASE("the cursor finds any row in any order, over files of different formats") {
  Scratch scratch;
  fs::copy_file(kFixture, scratch / "b.parquet");
  std::string lines;
  for (int i = 0; i < 300; ++i) lines += line(i) + "\n";
  scratch.write("a.jsonl", lines);
  scratch.write("c.jsonl.gz", gzip(lines));
  scratch.write("d.jsonl", "");
  std::vector<SourceFile> files = find_sources(scratch.path());
  std::vector<SourcePiece> pieces = cut_sources(files);
  std::vector<OwnedRow> rows;
  for (SourcePiece& piece : pieces) {
    auto mine = read_piece(files[piece.file], piece);
    piece.rows = mine.size();
    rows.insert(rows.end(), mine.begin(), mine.end());
  }
  REQUIRE(rows.size() == 3600);
  SourceCursor cursor(files, pieces);
  CHECK(cursor.rows() == 3600);
  for (uint64_t at : {0, 3599, 10, 20, 299, 300, 1500, 1501, 2299, 2300, 3299, 3300, 3400, 3350, 100}) {
    cursor.seek(at);
    Row row;
    for (uint64_t i = at; i < std::min<uint64_t>(at + 40, rows.size()); ++i) {
      REQUIRE(cursor.next(row));
      CAPTURE(i);
      CHECK(rows[i] ==
            OwnedRow{std::string(row.system_prompt), std::string(row.question), std::string(row.response)});
    }
  }
  cursor.seek(3600);
  Row row;
  CHECK_FALSE(cursor.next(row));
}

TEST_CASE("Parquet: truncated, or no Parquet at all") {
  Scratch scratch;
  std::string whole = read_file(kFixture);
  for (size_t size : {size_t{0}, size_t{4}, whole.size() / 2, whole.size() - 1}) {
    auto path = scratch.write("a.parquet", whole.substr(0, size));
    std::string error = error_of([&] { read_all(path); });
    CAPTURE(error);
    CHECK(contains(error, "a.parquet: not a whole Parquet file"));
    CHECK_FALSE(contains(error, "\n"));
  }
  std::string damaged = whole;
  for (size_t i = 1000; i < 3000; ++i) damaged[i] = static_cast<char>(damaged[i] ^ 0x5a);
  auto path = scratch.write("a.parquet", damaged);
  CHECK(contains(error_of([&] { read_all(path); }), "a.parquet: cannot decode row group 0"));
}

TEST_CASE("which files an input means") {
  Scratch scratch;
  for (const char* name :
       {"b.jsonl", "a/x.jsonl.gz", "a/y.parquet", ".cache/z.jsonl", "a/.hidden.jsonl", "README.md"})
    scratch.write(name, "");
  auto names = [&](const std::string& input) {
    std::vector<std::string> out;
    for (const SourceFile& file : find_sources(input)) out.push_back(file.name);
    return out;
  };
  using Names = std::vector<std::string>;
  std::string root = scratch.path().string();
  CHECK(names(root) == Names{"a/x.jsonl.gz", "a/y.parquet", "b.jsonl"});
  CHECK(names(root + "/") == Names{"a/x.jsonl.gz", "a/y.parquet", "b.jsonl"});
  CHECK(names(root + "/b.jsonl") == Names{"b.jsonl"});
  CHECK(names(root + "/*/*.p*") == Names{"a/y.parquet"});
  CHECK(contains(error_of([&] { find_sources(root + "/none"); }), "No such file"));
  CHECK(contains(error_of([&] { find_sources(root + "/*.arrow"); }), "no file matches"));
  CHECK(contains(error_of([&] { find_sources(root + "/README.md"); }), "unknown kind of file"));
  fs::create_directories(scratch / "empty");
  CHECK(contains(error_of([&] { find_sources(root + "/empty"); }), "nothing to read"));
}

TEST_CASE("the hash of a row depends on which field holds the text") {
  CHECK(row_hash({.question = "a", .response = "b"}) != row_hash({.question = "ab"}));
  CHECK(row_hash({.question = "a"}) != row_hash({.response = "a"}));
  CHECK(row_hash({.id = "1", .question = "a"}) == row_hash({.id = "2", .question = "a"}));
}
