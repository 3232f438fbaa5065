"""The graders, one in each module; entry points `hybrid.graders` map names to them."""
