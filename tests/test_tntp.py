"""The reader of TNTP files: what it reads, and what it says of files that it cannot read."""

import re

import numpy as np
import pytest

from bilevax.problems import read_network

NET = """<NUMBER OF ZONES> 2
<NUMBER OF NODES> 3
<FIRST THRU NODE> 3
<NUMBER OF LINKS> 4
<ORIGINAL HEADER>~ from to ;
<END OF METADATA>

~ from to capacity length time b power speed toll type ;
\t1\t3\t100\t5\t2.5\t0.15\t4\t0\t0\t1\t;
\t3\t1\t100\t5\t2.5\t0.15\t4\t0\t0\t1\t;
\t3\t2\t80\t1\t1\t0.3\t2\t0\t0\t1\t;  ~ a comment
\t2\t3\t80\t1\t1\t0\t0\t0\t0\t1\t;
"""
TRIPS = """<NUMBER OF ZONES> 2
<TOTAL OD FLOW> 17.5
<END OF METADATA>

Origin 1
    1 : 0.0;   2 : 12.5;
Origin \t2
    1 : 5.0;
"""
NODE = "Node X Y ;\n1 0 0 ;\n2 2.5 -1 ;\n3\t1\t1e-1\t;\n"


@pytest.fixture
def read(tmp_path):
    """Reads a network from texts."""

    def call(net=NET, trips=TRIPS, node=NODE):
        paths = [tmp_path / name for name in ("net.tntp", "trips.tntp", "node.tntp")]
        for path, text in zip(paths, (net, trips, node), strict=True):
            path.write_text(text)
        return read_network(*paths)

    return call


def test_a_network_is_read_with_nodes_numbered_from_0(read):
    road = read()
    assert (road.num_nodes, road.num_zones, road.num_links, road.first_through) == (3, 2, 4, 2)
    np.testing.assert_array_equal(road.tail, [0, 2, 2, 1])
    np.testing.assert_array_equal(road.head, [2, 0, 1, 2])
    np.testing.assert_array_equal(road.capacity, [100, 100, 80, 80])
    np.testing.assert_array_equal(road.time, [2.5, 2.5, 1, 1])
    np.testing.assert_array_equal(road.b, [0.15, 0.15, 0.3, 0])
    np.testing.assert_array_equal(road.power, [4, 4, 2, 0])
    np.testing.assert_array_equal(road.demand, [[0, 12.5], [5, 0]])
    np.testing.assert_array_equal(road.coordinates, [[0, 0], [2.5, -1], [1, 0.1]])


def test_coordinates_and_the_total_of_the_demand_may_be_left_out(tmp_path):
    (tmp_path / "net.tntp").write_text(NET)
    (tmp_path / "trips.tntp").write_text(TRIPS.replace("<TOTAL OD FLOW> 17.5\n", ""))
    road = read_network(tmp_path / "net.tntp", str(tmp_path / "trips.tntp"))
    assert road.coordinates is None and road.demand.sum() == 17.5


def bad(part, old, new, message):
    return pytest.param(part, old, new, message, id=message)


@pytest.mark.parametrize(
    "part, old, new, message",
    [
        bad("net", "<NUMBER OF NODES> 3\n", "", "net.tntp: the metadata lack <NUMBER OF NODES>."),
        bad("net", "<FIRST THRU NODE> 3\n", "", "the metadata lack <FIRST THRU NODE>."),
        bad("net", "<NUMBER OF LINKS> 4\n", "", "the metadata lack <NUMBER OF LINKS>."),
        bad(
            "net",
            "<END OF METADATA>\n",
            "",
            "net.tntp:8: '1 3 100 5 2.5 0.15 4 0 0 1 ;' stands",
        ),
        bad("net", NET, "", "net.tntp: there is no line <END OF METADATA>"),
        bad(
            "net", "ZONES> 2", "ZONES> two", "net.tntp:1: <NUMBER OF ZONES> is 'two'; give a whole"
        ),
        bad("net", "ZONES> 2", "ZONES> 4", "<NUMBER OF ZONES> is 4 and <NUMBER OF NODES> 3; the"),
        bad("net", "NODE> 3", "NODE> 5", "<FIRST THRU NODE> is 5; give a node from 1 to 3 (or 4"),
        bad(
            "net", "LINKS> 4", "LINKS> 5", "net.tntp: there are 4 links, and <NUMBER OF LINKS> is 5"
        ),
        bad("net", "\t3\t2\t80", "\t3\t7\t80", "net.tntp:11: the link ends at node 7; nodes are"),
        bad("net", "\t3\t2\t80", "\t0\t2\t80", "net.tntp:11: the link starts at node 0; nodes are"),
        bad("net", "\t3\t2\t80", "\t3\t1.5\t80", "net.tntp:11: the link ends at node 1.5; nodes"),
        bad(
            "net", "\t3\t2\t80", "\t3\t3\t80", "net.tntp:11: the link leads from node 3 to itself."
        ),
        bad(
            "net", "\t3\t2\t80", "\t3\t2\tx", "net.tntp:11: capacity is 'x'; give a finite number."
        ),
        bad("net", "\t3\t2\t80", "\t3\t2\t0", "net.tntp:11: capacity is 0; give a positive number"),
        bad("net", "\t3\t2\t80", "\t3\t2\t-1", "net.tntp:11: capacity is -1; give a number of at"),
        bad(
            "net", "0.3\t2\t0\t0\t1\t;", ";", "net.tntp:11: the row has 5 columns; give at least 7"
        ),
        bad(
            "trips", "<NUMBER OF ZONES> 2\n", "", "trips.tntp: the metadata lack <NUMBER OF ZONES>"
        ),
        bad("trips", "ZONES> 2", "ZONES> 3", "is 3, but the network has 2 zones."),
        bad(
            "trips",
            "Origin 1",
            "Origin 9",
            "trips.tntp:5: the origin is zone 9; zones are numbered",
        ),
        bad("trips", "2 : 12.5", "4 : 12.5", "trips.tntp:6: the destination is zone 4; zones are"),
        bad("trips", "2 : 12.5", "2 : -1", "trips.tntp:6: -1 trips; give a number of at least 0."),
        bad("trips", "2 : 12.5", "2 : lots", "trips.tntp:6: the number of trips is 'lots'; give"),
        bad(
            "trips", "2 : 12.5", "2 12.5", "trips.tntp:6: '2 12.5' should read destination : trips;"
        ),
        bad(
            "trips", "2 : 12.5", "1 : 12.5", "trips.tntp:6: trips from zone 1 to zone 1 are given a"
        ),
        bad(
            "trips",
            "Origin 1\n",
            "",
            "trips.tntp:5: '1 : 0.0; 2 : 12.5;' stands before the first",
        ),
        bad(
            "trips", "    1 : 5.0;\n", "", "the trips sum to 12.5, and <TOTAL OD FLOW> is 17.5; the"
        ),
        bad("node", "2 2.5 -1 ;\n", "", "node.tntp: node 2 has no coordinates; every node needs a"),
        bad(
            "node", "2 2.5 -1", "4 2.5 -1", "node.tntp:3: there is no node 4; nodes are numbered 1"
        ),
        bad(
            "node", "2 2.5 -1", "2 2.5", "node.tntp:3: the row has 2 columns; give at least 3: node"
        ),
    ],
)
def test_a_faulty_file_is_one_sentence_with_the_line(read, part, old, new, message):
    texts = dict(net=NET, trips=TRIPS, node=NODE)
    assert texts[part].count(old) == 1
    texts[part] = texts[part].replace(old, new)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read(**texts)
    assert str(caught.value).count("\n") == 0


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.tntp cannot be read: No such file"):
        read_network(tmp_path / "nowhere.tntp", tmp_path / "trips.tntp")
